//! The provider and the caller as processes of their own, at a daemon with the capability file of this example.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // a test may fail by panicking

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use image::{ImageFormat, Rgb, RgbImage};
use invoked::transport::{Access, Address, Listener};

const POLICY: &str = include_str!("../capabilities/thumbnails.toml");

struct World {
    directory: tempfile::TempDir,
    address: Address,
    _daemon: invoked::Running,
}

/// The provider; it ends with the test.
struct Provider(Child);

impl Drop for Provider {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl World {
    /// A daemon whose policy is that of the example, for pictures in a directory of the test's own.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        for sub in ["policy", "pictures/wall", "pictures/private"] {
            std::fs::create_dir_all(root.join(sub)).unwrap();
        }
        let pictures = root.join("pictures");
        let policy = POLICY.replace("/srv/pictures", pictures.to_str().unwrap());
        assert_ne!(policy, POLICY);
        std::fs::write(root.join("policy/thumbnails.toml"), policy).unwrap();
        let picture =
            RgbImage::from_fn(800, 400, |x, _| Rgb(if x < 400 { [255, 0, 0] } else { [0, 0, 255] }));
        for (name, format) in [
            ("a.png", ImageFormat::Png),
            ("wall/b.jpg", ImageFormat::Jpeg),
            ("private/c.png", ImageFormat::Png),
        ] {
            picture.save_with_format(pictures.join(name), format).unwrap();
        }
        std::fs::write(pictures.join("broken.png"), b"no picture").unwrap();
        std::os::unix::fs::symlink(pictures.join("private/c.png"), pictures.join("link.png")).unwrap();
        let address: Address = format!("unix:{}/run/daemon.sock", root.display()).parse().unwrap();
        let listener = Listener::bind(&address, Access::Owner).unwrap();
        // The provider is not there yet: what the policy says of it is pending.
        let daemon = invoked::Builder::default().capabilities(root.join("policy")).serve(listener).unwrap();
        World { directory, address, _daemon: daemon }
    }

    fn provide(&self) -> Provider {
        let mut child = Command::new(env!("CARGO_BIN_EXE_thumbnails"))
            .arg(self.address.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let provider = Provider(child);
        assert_eq!(line, "serving thumbs.make\n");
        provider
    }

    fn picture(&self, name: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join("pictures").join(name)
    }

    fn thumbnail(&self, picture: &Path, side: u32) -> (Output, PathBuf) {
        let out = self.directory.path().join("out.png");
        drop(std::fs::remove_file(&out));
        let output = Command::new(env!("CARGO_BIN_EXE_thumbnail"))
            .arg(picture)
            .arg(side.to_string())
            .arg(&out)
            .arg(self.address.to_string())
            .output()
            .unwrap();
        (output, out)
    }

    /// What the caller says when it gets none.
    fn refused(&self, picture: &Path, side: u32) -> String {
        let (output, out) = self.thumbnail(picture, side);
        assert!(!output.status.success() && !out.exists());
        String::from_utf8(output.stderr).unwrap()
    }
}

#[test]
fn a_caller_gets_the_thumbnails_that_its_scope_names_and_no_others() {
    let world = World::new();
    // Nobody provides it yet. Whoever operates the daemon, as root does, is told that there is no such command.
    let early = world.refused(&world.picture("a.png"), 64);
    assert!(early.contains("permission_denied") || early.contains("not_found"), "{early}");
    let provider = world.provide();
    for (name, side, size) in
        [("a.png", 64, (64, 32)), ("a.png", 256, (256, 128)), ("wall/b.jpg", 600, (600, 300))]
    {
        let (output, out) = world.thumbnail(&world.picture(name), side);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let thumbnail = image::open(&out).unwrap().into_rgb8();
        assert_eq!(thumbnail.dimensions(), size);
        let (left, right) = (thumbnail.get_pixel(2, 2), thumbnail.get_pixel(size.0 - 2, 2));
        assert!(left[0] > 200 && left[2] < 50 && right[0] < 50 && right[2] > 200, "{left:?} {right:?}");
    }
    for (name, side) in
        [("a.png", 257), ("private/c.png", 64), ("link.png", 64), ("../policy/thumbnails.toml", 64)]
    {
        let text = world.refused(&world.picture(name), side);
        assert!(text.contains("permission_denied"), "{name} {side}: {text}");
    }
    assert!(
        world.refused(Path::new("/etc/nothing"), 64).contains("permission_denied"),
        "whether it is there is not told"
    );
    assert!(!world.refused(&world.picture("broken.png"), 64).contains("permission_denied"));
    drop(provider);
    assert!(world.refused(&world.picture("a.png"), 64).contains("unavailable"));
    let _again = world.provide();
    assert!(world.thumbnail(&world.picture("a.png"), 64).0.status.success());
}
