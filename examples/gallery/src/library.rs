use std::collections::BTreeMap;

use serde::Serialize;

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Album {
    pub pictures: Vec<String>,
    pub cover_picture: Option<String>,
}

#[derive(Debug, Default)]
pub struct Library {
    pub albums: BTreeMap<String, Album>,
}
