//! What plugins ship, in one form whether it came from a manifest, a permission file or an interface file.
//!
//! Owns that form, in which everything knows its place. What it makes together is `register`'s business.

use std::sync::Arc;

use invoked_proto::name::PluginName;
use serde_json::Value;

use super::Platform;
use super::permission::{Permission, PermissionSet, PluginManifest};
use super::scope::{ScopeDefault, ScopeItem, ScopeKind, ScopeLists};
use super::source::{Location, PolicyError};

/// Where something that is shipped is written.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// In a program; the text is what messages call the manifest.
    Manifest(Arc<str>),
    /// In a file.
    File(Location),
}

impl Place {
    pub(crate) fn error(&self, message: impl Into<String>) -> PolicyError {
        match self {
            Place::Manifest(label) => PolicyError::unplaced(&**label, message),
            Place::File(location) => location.error(message),
        }
    }
}

/// A name, and where it is written.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) text: String,
    pub(crate) place: Place,
}

/// A plugin, or the application itself.
#[derive(Clone, Debug)]
pub(crate) struct ShippedPlugin {
    pub(crate) name: Option<PluginName>,
    pub(crate) place: Place,
    pub(crate) commands: Vec<ShippedCommand>,
    pub(crate) contents: ShippedContents,
    pub(crate) scope: ScopeKind,
    pub(crate) default_scope: ScopeDefault,
}

#[derive(Clone, Debug)]
pub(crate) struct ShippedCommand {
    /// Within its plugin.
    pub(crate) name: Written,
    pub(crate) scoped: bool,
}

/// Permissions and sets of one plugin, from one place.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShippedContents {
    pub(crate) permissions: Vec<ShippedPermission>,
    /// `default` among them.
    pub(crate) sets: Vec<ShippedSet>,
}

#[derive(Clone, Debug)]
pub(crate) struct ShippedPermission {
    pub(crate) identifier: Written,
    pub(crate) description: String,
    pub(crate) allow: Vec<Written>,
    pub(crate) deny: Vec<Written>,
    pub(crate) scope: ScopeLists,
    /// Everywhere when empty.
    pub(crate) platforms: Vec<Platform>,
}

#[derive(Clone, Debug)]
pub(crate) struct ShippedSet {
    pub(crate) identifier: Written,
    pub(crate) description: String,
    pub(crate) members: Vec<Written>,
}

/// The set that exists where its members are named.
pub(crate) const DEFAULT: &str = "default";

impl ShippedPlugin {
    pub(crate) fn of(manifest: &PluginManifest) -> Self {
        let place = Place::Manifest(manifest.label().into());
        let written = |text: &String| Written { text: text.clone(), place: place.clone() };
        let permission = |permission: &Permission| ShippedPermission {
            identifier: written(&permission.identifier),
            description: permission.description.clone(),
            allow: permission.allow.iter().map(written).collect(),
            deny: permission.deny.iter().map(written).collect(),
            scope: ScopeLists {
                allow: permission.scope_allow.as_deref().map(items),
                deny: items(&permission.scope_deny),
            },
            platforms: permission.platforms.clone(),
        };
        let set = |set: &PermissionSet| ShippedSet {
            identifier: written(&set.identifier),
            description: set.description.clone(),
            members: set.permissions.iter().map(written).collect(),
        };
        let default = (!manifest.default.is_empty()).then(|| PermissionSet {
            identifier: DEFAULT.to_owned(),
            description: String::new(),
            permissions: manifest.default.clone(),
        });
        ShippedPlugin {
            name: manifest.name.clone(),
            commands: manifest
                .commands
                .iter()
                .map(|command| ShippedCommand { name: written(&command.name), scoped: command.scoped })
                .collect(),
            contents: ShippedContents {
                permissions: manifest.permissions.iter().map(permission).collect(),
                sets: manifest.sets.iter().chain(&default).map(set).collect(),
            },
            scope: manifest.scope.clone(),
            default_scope: manifest.default_scope.clone(),
            place,
        }
    }

    /// Adds those of these commands that it lacks.
    pub(crate) fn add_commands(&mut self, commands: Vec<ShippedCommand>) {
        for command in commands {
            if !self.commands.iter().any(|known| known.name.text == command.name.text) {
                self.commands.push(command);
            }
        }
    }

    pub(crate) fn plugin(&self) -> Option<&str> {
        self.name.as_ref().map(PluginName::as_str)
    }
}

/// Values that a program ships have no place.
fn items(values: &[Value]) -> Vec<ScopeItem> {
    values.iter().map(|value| ScopeItem::new(value.clone(), None)).collect()
}
