//! In place of `tauri_build::build()`: code of plugins asks whether it runs on a desktop.

fn main() {
    println!("cargo::rustc-cfg=desktop");
}
