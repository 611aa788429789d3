use serde::{Deserialize, Serialize};

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TagRequest {
    pub picture_name: String,
    pub tags: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TagResponse {
    pub tag_count: usize,
}

/// A value of the scope of `tag`.
#[derive(Debug, Deserialize)]
pub struct Entry {
    pub tag: String,
}
