//! What a scope of thumbnails says: which pictures, and how large a thumbnail of them may be.

use std::path::{Path, PathBuf};

use invoked::authority::{
    InputError, PathScope, ScopeContext, ScopeError, ScopeObject, ScopeObjectMatch, ScopeRole,
};
use serde_json::{Value, json};

/// One value of a scope: `{ path = "/srv/pictures/**", max_side = 256 }`. In `deny`, without `max_side`, all sizes are denied.
#[derive(Debug)]
pub struct Pictures {
    path: PathScope,
    max_side: Option<u32>,
}

/// What a call wants.
#[derive(Debug)]
pub struct Wanted {
    /// The picture, links resolved.
    pub path: PathBuf,
    /// The side of the square that the thumbnail fits into, in pixels.
    pub side: u32,
}

/// The form of a value, by which the daemon checks capability files.
pub(crate) fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "path": { "type": "string", "description": "A pattern over absolute paths: /srv/pictures/**." },
            "max_side": { "type": "integer", "minimum": 1, "description": "The largest thumbnail, in pixels." },
        },
        "required": ["path"],
        "additionalProperties": false,
    })
}

impl ScopeObject for Pictures {
    fn parse(value: &Value, role: ScopeRole, context: &ScopeContext) -> Result<Self, ScopeError> {
        let max_side = match &value["max_side"] {
            Value::Null => None,
            side => Some(
                side.as_u64()
                    .and_then(|side| u32::try_from(side).ok())
                    .ok_or_else(|| ScopeError::new("max_side is a number of pixels"))?,
            ),
        };
        Ok(Pictures { path: PathScope::parse(&value["path"], role, context)?, max_side })
    }
}

impl ScopeObjectMatch for Pictures {
    type Input = Wanted;

    fn admit(input: &Wanted) -> Result<(), InputError> {
        PathScope::admit(Path::new(&input.path))
    }

    fn matches(&self, input: &Wanted) -> bool {
        self.path.matches(&input.path) && self.max_side.is_none_or(|most| input.side <= most)
    }
}
