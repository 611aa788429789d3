//! `core.schema`: JSON Schemas of the files that this daemon reads, for editors.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{answered, handle, summary};
use crate::authority::PolicySnapshot;
use crate::commands::CommandTable;
use crate::ipc::{InvokeMessage, Outcome, Response};

/// A schema of each kind of file, by its name.
pub(crate) fn schemas(policy: &PolicySnapshot, commands: &CommandTable) -> Map<String, Value> {
    let summary = |name: &str| commands.find(name).map(|command| summary(command.docs()).to_owned());
    let registry = policy.registry();
    let mut schemas = Map::new();
    schemas.insert("capability".to_owned(), registry.capability_schema(&summary));
    schemas.insert("permission".to_owned(), registry.permission_schema(&summary));
    schemas
}

pub(super) async fn schema(message: InvokeMessage) -> Outcome {
    let found = handle(&message)?
        .ask(|hub| hub.with_broker(|broker| (Arc::clone(broker.policy()), Arc::clone(broker.commands()))))
        .await;
    let (policy, commands) = answered(found)?;
    Ok(Response::json(&schemas(&policy, &commands))?)
}
