pub mod albums;
pub mod files;
pub mod import;
