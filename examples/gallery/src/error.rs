use serde::Serialize;

/// An error that the front end gets as a string.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Tauri(#[from] tauri::Error),
    #[error("unexpected request body")]
    RequestBodyMustBeRaw,
    #[error("missing `{0}` header")]
    MissingHeader(&'static str),
    #[error("{0} is not a picture that you may see")]
    OutOfScope(String),
}

// we must manually implement serde::Serialize
impl serde::Serialize for Error {
    fn serialize<S>(&self, serializer: S) -> Result<S::Ok, S::Error>
    where
        S: serde::ser::Serializer,
    {
        serializer.serialize_str(self.to_string().as_ref())
    }
}

/// An error that the front end gets as an object with `kind` and `message`.
#[derive(Debug, thiserror::Error)]
pub enum AlbumError {
    #[error("there is an album {0} already")]
    Exists(String),
    #[error("there is no album {0}")]
    NotFound(String),
    #[error("the library was left by a panic")]
    Poisoned,
}

impl<T> From<std::sync::PoisonError<T>> for AlbumError {
    fn from(_: std::sync::PoisonError<T>) -> Self {
        AlbumError::Poisoned
    }
}

#[derive(Serialize)]
#[serde(tag = "kind", content = "message")]
#[serde(rename_all = "camelCase")]
enum AlbumErrorKind {
    Exists(String),
    NotFound(String),
    Poisoned(String),
}

impl serde::Serialize for AlbumError {
    fn serialize<S>(&self, serializer: S) -> Result<S::Ok, S::Error>
    where
        S: serde::ser::Serializer,
    {
        let error_message = self.to_string();
        let error_kind = match self {
            Self::Exists(_) => AlbumErrorKind::Exists(error_message),
            Self::NotFound(_) => AlbumErrorKind::NotFound(error_message),
            Self::Poisoned => AlbumErrorKind::Poisoned(error_message),
        };
        error_kind.serialize(serializer)
    }
}
