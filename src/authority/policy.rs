//! Everything that a policy is made of, and the compiling of it into a snapshot.
//!
//! Owns the order of the steps and the collecting of all that is wrong. Pure: text in, snapshot or messages out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use invoked_proto::name::PluginName;

use super::builder::AddedCapability;
use super::capability::{Capability, CapabilityReader, Platform, TauriFiles};
use super::document::{Format, Node};
use super::embedded::{DevOptions, dev_policy, operate_policy};
use super::limits::Ceilings;
use super::matcher::{MatcherContext, NamedPeers, ProcessFacts};
use super::peer::UserDirectory;
use super::permission::PluginManifest;
use super::provided::ProvidedInterface;
use super::register::{Circumstances, register};
use super::registry::Registry;
use super::resolve::{Instance, Resolver, RuleOrigin};
use super::scope::{ScopeContext, ScopeVariable, is_plain};
use super::shipped::ShippedPlugin;
use super::snapshot::{PolicySnapshot, Remarks};
use super::source::{Findings, PolicyError, Source};
use super::{interface, permission_file};

/// What a policy is made of: manifests, files, the daemon's own circumstances.
///
/// ```
/// use invoked::authority::{Format, PeerFacts, PluginManifest, Policy, Source, UserDirectory, Verdict};
///
/// struct NoUsers;
/// impl UserDirectory for NoUsers {
///     fn uid_of(&self, _: &str) -> Option<u32> { None }
///     fn gid_of(&self, _: &str) -> Option<u32> { None }
///     fn name_of(&self, _: u32) -> Option<String> { None }
///     fn home_of(&self, _: u32) -> Option<std::path::PathBuf> { None }
/// }
///
/// let text = r#"
/// identifier = "hello"
/// peers = ["uid:1000"]
/// permissions = ["allow-greet"]
/// "#;
/// let compiled = Policy::new(999, &NoUsers)
///     .manifest(PluginManifest::application().command("greet"))
///     .document(Source::new("hello.toml", None, text), Format::Toml)
///     .compile()
///     .expect("this policy has no errors");
/// let grants = compiled.snapshot.peer(&PeerFacts::new(1000, 1000, []));
/// assert!(matches!(grants.authorize("greet"), Verdict::Allow(_)));
/// assert!(matches!(grants.authorize("other"), Verdict::Deny(_)));
/// ```
#[must_use]
pub struct Policy<'a> {
    users: &'a dyn UserDirectory,
    own_uid: u32,
    process_facts: ProcessFacts,
    tauri: TauriFiles,
    ceilings: Ceilings,
    manifests: Vec<PluginManifest>,
    documents: Vec<(Source, Format)>,
    permission_files: Vec<(Source, Format, Option<PluginName>)>,
    interfaces: Vec<Source>,
    provided: Vec<(Arc<ProvidedInterface>, u32)>,
    added: Vec<AddedCapability>,
    variables: BTreeMap<ScopeVariable, PathBuf>,
    instance: Instance,
    platform: Platform,
    dev: Option<DevOptions>,
    revision: u64,
}

/// A policy without errors.
#[derive(Debug)]
pub struct CompiledPolicy {
    /// The policy in force.
    pub snapshot: PolicySnapshot,
    /// What may not be what its author meant.
    pub warnings: Vec<PolicyError>,
}

impl<'a> Policy<'a> {
    /// A policy of the daemon that runs as `own_uid`, so far without plugins and files.
    pub fn new(own_uid: u32, users: &'a dyn UserDirectory) -> Self {
        Policy {
            users,
            own_uid,
            process_facts: ProcessFacts::default(),
            tauri: TauriFiles::default(),
            ceilings: Ceilings::default(),
            manifests: Vec::new(),
            documents: Vec::new(),
            permission_files: Vec::new(),
            interfaces: Vec::new(),
            provided: Vec::new(),
            added: Vec::new(),
            variables: BTreeMap::new(),
            instance: Instance::User,
            platform: Platform::current(),
            dev: None,
            revision: 1,
        }
    }

    /// Says whether the kernel confirms what it says of a peer's process. Unless it does, which is what is assumed, a
    /// file that looks at executables or units is refused.
    pub fn process_facts(mut self, process_facts: ProcessFacts) -> Self {
        self.process_facts = process_facts;
        self
    }

    /// Says how files written for Tauri are taken.
    pub fn tauri_files(mut self, tauri: TauriFiles) -> Self {
        self.tauri = tauri;
        self
    }

    /// Says what is in force under a name of `proto/registry.toml`, which is the most that a capability may set; its
    /// default there unless it is said.
    pub fn ceiling(mut self, name: &str, value: u64) -> Self {
        self.ceilings.set(name, value);
        self
    }

    /// Adds what a plugin, or the application, ships.
    pub fn manifest(mut self, manifest: PluginManifest) -> Self {
        self.manifests.push(manifest);
        self
    }

    /// Adds a capability file.
    pub fn document(mut self, source: Source, format: Format) -> Self {
        self.documents.push((source, format));
        self
    }

    /// Adds a permission file. It belongs to `plugin`, where the directory that it lies in says so, else to the plugin that
    /// it names itself, else to the application.
    pub fn permission_file(mut self, source: Source, format: Format, plugin: Option<PluginName>) -> Self {
        self.permission_files.push((source, format, plugin));
        self
    }

    /// Adds an interface file, JSON: the manifest of a plugin that a provider serves or will serve.
    pub fn interface(mut self, source: Source) -> Self {
        self.interfaces.push(source);
        self
    }

    /// Adds what a peer of `uid` has registered that it provides.
    ///
    /// Where an interface file describes the plugin, that says which permissions and scopes there are, and what is registered
    /// only adds commands; of several versions the highest says so. A capability that names a permission which a registered
    /// plugin lacks is warned of and grants nothing by it: what a peer registers must not keep a policy from being read.
    pub fn provided(mut self, interface: Arc<ProvidedInterface>, uid: u32) -> Self {
        self.provided.push((interface, uid));
        self
    }

    /// Adds a capability that has no file.
    pub fn capability(mut self, capability: AddedCapability) -> Self {
        self.added.push(capability);
        self
    }

    /// Gives a variable of path scopes its value: an absolute path with links resolved. `$PEER_HOME` comes from each
    /// peer and `$DIR` from [`dev`](Self::dev) instead.
    pub fn variable(mut self, variable: ScopeVariable, value: impl Into<PathBuf>) -> Self {
        self.variables.insert(variable, value.into());
        self
    }

    /// Says whether this is a user's daemon, which is what is assumed, or the machine's.
    pub fn instance(mut self, instance: Instance) -> Self {
        self.instance = instance;
        self
    }

    /// Reads the files as on another platform.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// Adds the policy of `--dev`.
    pub fn dev(mut self, dev: DevOptions) -> Self {
        self.dev = Some(dev);
        self
    }

    /// Numbers the snapshot; a reload gives a higher number than the one before.
    pub fn revision(mut self, revision: u64) -> Self {
        self.revision = revision;
        self
    }

    /// The uid that the daemon runs as.
    #[must_use]
    pub fn own_uid(&self) -> u32 {
        self.own_uid
    }

    /// Reads everything.
    ///
    /// # Errors
    /// All that is wrong, in the order of files and lines. When what plugins ship is wrong, capabilities are not judged
    /// against it.
    pub fn compile(self) -> Result<CompiledPolicy, Vec<PolicyError>> {
        let mut findings = Findings::default();
        let mut variables = self.checked_variables(&mut findings);
        let dev = self.dev.as_ref().and_then(|dev| match dev.checked_directory() {
            Ok(directory) => Some(directory.to_owned()),
            Err(error) => {
                findings.error(error);
                None
            }
        });
        if let Some(directory) = &dev {
            variables.insert(ScopeVariable::Dir, directory.clone());
        }
        let documents = self.documents.iter();
        let mut trees: Vec<_> =
            documents.filter_map(|(source, format)| parsed(source, *format, &mut findings)).collect();
        let added = self.added.iter().map(|added| Some((added.source(), added.parse(&mut findings)?)));
        trees.extend(added.flatten());
        let files = self.capabilities(&trees, &mut findings);
        let provided = files.iter().flat_map(|c| &c.provide).map(|plugin| plugin.name.clone()).collect();
        let before = findings.errors.len();
        let registry = self.registry(&provided, &mut findings);
        if findings.errors.len() > before {
            findings.sort();
            return Err(findings.errors);
        }
        refuse_duplicates(&files, &mut findings);
        let variables = Arc::new(variables);
        let resolver = Resolver {
            registry: &registry,
            context: &ScopeContext::for_checking(&variables),
            instance: self.instance,
            own_uid: self.own_uid,
            tauri: self.tauri,
            provided: &provided,
            registered: &self.registered_only(),
        };
        let pending = files.iter().flat_map(|capability| resolver.pending(capability)).collect();
        let embedded = self.embedded(&registry, dev.as_deref());
        let mut rules = Vec::new();
        for (source, origin) in &embedded {
            let tree: Vec<_> = parsed(source, Format::Toml, &mut findings).into_iter().collect();
            let read = self.capabilities(&tree, &mut findings);
            rules.extend(read.into_iter().map(|c| resolver.resolve(c, *origin, &mut findings)));
        }
        for capability in files {
            // What is for another platform is checked all the same.
            let here = capability.here;
            let resolved = resolver.resolve(capability, RuleOrigin::File, &mut findings);
            rules.extend(here.then_some(resolved));
        }
        findings.sort();
        if !findings.errors.is_empty() {
            return Err(findings.errors);
        }
        let embedded = embedded.iter().map(|(source, _)| source.text().to_owned()).collect();
        let snapshot = PolicySnapshot::new(
            self.revision,
            registry,
            rules,
            variables,
            Remarks { embedded, notes: findings.notes, pending },
        );
        Ok(CompiledPolicy { snapshot, warnings: findings.warnings })
    }

    fn checked_variables(&self, findings: &mut Findings) -> BTreeMap<ScopeVariable, String> {
        let mut checked = BTreeMap::new();
        for (variable, path) in &self.variables {
            match path.to_str().filter(|text| is_plain(text)) {
                Some(text) => {
                    checked.insert(*variable, text.to_owned());
                }
                None => {
                    let message =
                        format!("{path:?} is not an absolute path below the root with its links resolved");
                    findings.error(PolicyError::unplaced(variable.as_str(), message));
                }
            }
        }
        checked
    }

    fn embedded(&self, registry: &Registry, dev: Option<&str>) -> Vec<(Source, RuleOrigin)> {
        let source = |name, text| Source::new(name, None, text);
        let operate = source("embedded policy", operate_policy(registry));
        let dev = dev.map(|directory| {
            let foreign = self.provided.iter().filter(|(_, uid)| *uid != self.own_uid);
            let foreign = foreign.map(|(interface, _)| interface.plugin()).collect();
            source("--dev policy", dev_policy(directory, registry, &foreign))
        });
        [(operate, RuleOrigin::Operate)].into_iter().chain(dev.map(|dev| (dev, RuleOrigin::Dev))).collect()
    }

    /// What plugins ship, with the files about them.
    fn registry(&self, provided: &HashSet<String>, findings: &mut Findings) -> Registry {
        let mut plugins: Vec<ShippedPlugin> = self.manifests.iter().map(ShippedPlugin::of).collect();
        plugins.extend(self.interfaces.iter().filter_map(|source| interface::read(source, findings)));
        let own = self.manifests.len();
        let mut registered: Vec<_> = self.provided.iter().map(|(interface, _)| interface).collect();
        registered.sort_by_key(|interface| std::cmp::Reverse(interface.major()));
        for interface in registered {
            let Some(shipped) = interface::read(interface.source(), findings) else { continue };
            match plugins.iter_mut().skip(own).find(|plugin| plugin.name == shipped.name) {
                Some(described) => described.add_commands(shipped.commands),
                None => plugins.push(shipped),
            }
        }
        let mut files = Vec::new();
        let mut read = |source: &Source, format, plugin: Option<&PluginName>| {
            let Some(root) = Node::parse(source, format, findings) else { return };
            let Some(file) = permission_file::read(source, &root, findings) else { return };
            if let (Some(plugin), Some((named, place))) = (plugin, &file.plugin)
                && plugin != named
            {
                let message = format!("the file is of plugin \"{plugin}\", by the directory it lies in");
                findings.error(place.error(message));
                return;
            }
            let plugin = plugin.or(file.plugin.as_ref().map(|(named, _)| named));
            files.push((plugin.map(|name| name.as_str().to_owned()), file));
        };
        for manifest in &self.manifests {
            for (source, format) in manifest.permission_sources() {
                read(&source, format, manifest.name.as_ref());
            }
        }
        for (source, format, plugin) in &self.permission_files {
            read(source, *format, plugin.as_ref());
        }
        let circumstances = Circumstances { platform: self.platform, tauri: self.tauri, provided };
        register(&plugins, &files, &circumstances, findings)
    }

    /// Plugins that nothing describes but what peers registered.
    fn registered_only(&self) -> HashSet<String> {
        if self.provided.is_empty() {
            return HashSet::new();
        }
        let mut unread = Findings::default();
        let described =
            self.interfaces.iter().filter_map(|source| interface::read(source, &mut unread)?.name);
        let described: HashSet<String> = described.map(|name| name.as_str().to_owned()).collect();
        let registered = self.provided.iter().map(|(interface, _)| interface.plugin().to_owned());
        registered.filter(|name| !described.contains(name)).collect()
    }

    /// The capabilities of some files, which may use each other's named peers.
    fn capabilities(&self, trees: &[(&Source, Node)], findings: &mut Findings) -> Vec<Capability> {
        let matchers =
            MatcherContext { users: self.users, own_uid: self.own_uid, process_facts: self.process_facts };
        let reader = CapabilityReader {
            matchers,
            platform: self.platform,
            ceilings: &self.ceilings,
            tauri: self.tauri,
        };
        let mut named = NamedPeers::new();
        for (source, root) in trees {
            reader.read_peers(source, root, &mut named, findings);
        }
        trees.iter().flat_map(|(source, root)| reader.read_file(source, root, &named, findings)).collect()
    }
}

/// A file with its tree, if its syntax is right.
fn parsed<'s>(source: &'s Source, format: Format, findings: &mut Findings) -> Option<(&'s Source, Node)> {
    Some((source, Node::parse(source, format, findings)?))
}

/// A file may be what `--dev` or `--print-policy` printed: only files are compared with each other.
fn refuse_duplicates(capabilities: &[Capability], findings: &mut Findings) {
    let mut seen: HashMap<&str, &Capability> = HashMap::new();
    for capability in capabilities.iter().filter(|capability| !capability.identifier.is_empty()) {
        if let Some(first) = seen.insert(&capability.identifier, capability) {
            let message = format!(
                "a second capability \"{}\"; the first is at {}",
                capability.identifier, first.location
            );
            findings.error(capability.location.error(message));
        }
    }
}
