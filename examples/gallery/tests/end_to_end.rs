//! The gallery as a process of its own, and calls of each of its commands.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use invoked_client::blocking::Client;
use invoked_client::{Body, Error, Options};
use serde_json::{Value, json};

/// The gallery, in a directory that goes with it.
struct Gallery {
    process: Child,
    directory: tempfile::TempDir,
}

impl Gallery {
    /// Starts it with its own capability files; `/srv/pictures` in them is a directory of the test's.
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let place = directory.path().canonicalize().expect("it is there");
        fs::create_dir_all(place.join("pictures/private")).expect("a directory");
        fs::create_dir(place.join("capabilities")).expect("a directory");
        for name in ["default.json", "peers.toml"] {
            let text =
                fs::read_to_string(Path::new("capabilities").join(name)).expect("a file of the example");
            let text = text.replace("/srv/pictures", &place.join("pictures").to_string_lossy());
            let file = place.join("capabilities").join(name);
            fs::write(&file, text).expect("written");
            // One that others may write would be refused.
            fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("set");
        }
        let mut process = Command::new(env!("CARGO_BIN_EXE_gallery"))
            .args(["--user", "--log", "off", "--address", &address(&place), "--capabilities"])
            .arg(place.join("capabilities"))
            .env_remove("INVOKED_CONFIG")
            .env("XDG_CONFIG_HOME", place.join("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the gallery starts");
        let mut ready = String::new();
        BufReader::new(process.stdout.as_mut().expect("piped")).read_line(&mut ready).expect("a line");
        assert!(ready.starts_with("org.example.gallery 0.1.0 listening on "), "{ready}");
        Gallery { process, directory }
    }

    fn options(&self) -> Options {
        let place = self.directory.path().canonicalize().expect("it is there");
        Options::new().address(address(&place).parse().expect("an address"))
    }

    fn client(&self) -> Client {
        Client::connect(self.options()).expect("connected")
    }

    fn pictures(&self) -> PathBuf {
        self.directory.path().canonicalize().expect("it is there").join("pictures")
    }
}

impl Drop for Gallery {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn address(place: &Path) -> String {
    format!("unix:{}/run/gallery.sock", place.display())
}

/// What the application's own error is, as JSON.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> Value {
    let error = result.expect_err("the command refuses");
    assert!(error.is_application(), "{error}");
    error.json().expect("JSON")
}

fn code(error: &Error) -> Option<&str> {
    error.code().map(|code| code.name())
}

/// What stays in the application with the window: the front end calls this, and it calls the process.
#[tauri::command]
async fn create_album(
    album_name: String,
    gallery: tauri::State<'_, invoked_client::Client>,
) -> Result<usize, Value> {
    let args = json!({ "albumName": album_name });
    gallery.invoke("create_album", &args).await.map_err(told)
}

/// The error as the front end knows it, and a text for what it can't know.
fn told(error: Error) -> Value {
    error.json().unwrap_or_else(|| error.to_string().into())
}

#[test]
fn a_command_that_stayed_calls_the_one_that_moved() {
    use tauri::test::{InvokeRequest, assert_ipc_response, mock_app, mock_builder};
    let gallery = Gallery::start();
    let client = tauri::async_runtime::block_on(invoked_client::Client::connect(gallery.options()));
    let front = mock_builder()
        .manage(client.expect("connected"))
        .invoke_handler(tauri::generate_handler![create_album]);
    let front = mock_app(front).expect("a sound application");
    let page = front.user(1000);
    let request = InvokeRequest::new("create_album").args(&json!({ "albumName": "cats" }));
    assert_ipc_response(&page, request.clone(), Ok(json!(1)));
    let taken = json!({ "kind": "exists", "message": "there is an album cats already" });
    assert_ipc_response(&page, request, Err(taken));
}

#[test]
fn arguments_and_state_are_as_tauri_has_them() -> Result<(), Error> {
    let gallery = Gallery::start();
    let client = gallery.client();
    let hello: String = client.invoke("greet", &json!({ "name": "Ann" }))?;
    assert_eq!(hello, "Hello, Ann! You've been greeted from Rust!");
    assert_eq!(client.invoke::<usize>("create_album", &json!({ "albumName": "cats" }))?, 1);
    let dogs = json!({ "albumName": "dogs", "coverPicture": "rex" });
    assert_eq!(client.invoke::<usize>("create_album", &dogs)?, 2);
    let album: Value = client.invoke("add_picture", &json!({ "albumName": "dogs", "picture": "rex.png" }))?;
    assert_eq!(album, json!({ "pictures": ["rex.png"], "coverPicture": "rex" }));
    client.invoke::<()>("rename_album", &json!({ "old_name": "dogs", "new_name": "good dogs" }))?;
    let found: Vec<String> = client.invoke("find_pictures", &json!({ "query": "rex" }))?;
    assert_eq!(found, ["rex.png"]);
    // Another process sees the same state.
    let again = gallery.client().invoke::<usize>("create_album", &json!({ "albumName": "birds" }))?;
    assert_eq!(again, 3);
    Ok(())
}

#[test]
fn a_key_in_the_other_case_is_refused_with_a_hint() {
    let client = Gallery::start();
    let client = client.client();
    let error = client.invoke::<usize>("create_album", &json!({ "album_name": "cats" })).unwrap_err();
    assert_eq!(code(&error), Some("invalid_argument"));
    assert!(error.message().contains("missing `albumName`; the call has `album_name`"), "{error}");
}

#[test]
fn errors_are_a_text_or_a_kind_with_a_message() -> Result<(), Error> {
    let gallery = Gallery::start();
    let client = gallery.client();
    let cats = json!({ "albumName": "cats" });
    client.invoke::<usize>("create_album", &cats)?;
    assert_eq!(
        refused(client.invoke::<usize>("create_album", &cats)),
        json!({ "kind": "exists", "message": "there is an album cats already" })
    );
    let unknown = json!({ "old_name": "dogs", "new_name": "x" });
    assert_eq!(
        refused(client.invoke::<()>("rename_album", &unknown)),
        json!({ "kind": "notFound", "message": "there is no album dogs" })
    );
    let missing = json!({ "path": gallery.pictures().join("missing.png") });
    let text = refused(client.invoke::<Value>("picture_info", &missing));
    assert!(text.as_str().is_some_and(|text| text.contains("No such file")), "{text}");
    Ok(())
}

#[test]
fn a_raw_body_comes_with_headers_and_one_goes_back() -> Result<(), Error> {
    let gallery = Gallery::start();
    let client = gallery.client();
    let picture = [1_u8, 2, 255];
    let sent = client.call("upload").raw(picture.to_vec()).header("file-name", "a.png").send()?;
    assert_eq!(sent.json::<usize>()?, 3);
    assert_eq!(client.invoke::<u32>("checksum", &json!({ "name": "a.png" }))?, 258);
    assert_eq!(
        refused(client.call("upload").raw(picture.to_vec()).send()),
        json!("missing `File-Name` header")
    );
    assert_eq!(refused(client.call("upload").arg("file", 1).send()), json!("unexpected request body"));
    // The task that the setup hook spawned runs beside the commands.
    while client.invoke::<usize>("uploads", &json!({}))? != 1 {
        std::thread::sleep(Duration::from_millis(5));
    }

    let path = gallery.pictures().join("a.png");
    fs::write(&path, picture).expect("written");
    let reply = client.call("read_picture").arg("path", &path).send()?;
    assert_eq!(reply.body(), &Body::Raw(picture.to_vec().into()));
    Ok(())
}

#[test]
fn a_channel_brings_events_and_bytes() -> Result<(), Error> {
    let gallery = Gallery::start();
    let client = gallery.client();
    let (call, events) = client.call("download").arg("url", "https://example.org/a").channel("onEvent");
    let call = call.start()?;
    let events = events.map(|event| event?.json()).collect::<Result<Vec<Value>, _>>()?;
    call.wait()?;
    assert_eq!(
        events[0],
        json!({ "event": "started",
            "data": { "url": "https://example.org/a", "downloadId": 1, "contentLength": 1000 } })
    );
    let lengths: Vec<_> = events[1..6].iter().map(|event| event["data"]["chunkLength"].clone()).collect();
    assert_eq!(lengths, [15, 150, 35, 500, 300]);
    assert_eq!(events[6..], [json!({ "event": "finished", "data": { "downloadId": 1 } })]);

    let bytes: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let path = gallery.pictures().join("large.png");
    fs::write(&path, &bytes).expect("written");
    let (call, chunks) = client.call("load_image").arg("path", &path).channel("reader");
    let call = call.start()?;
    let chunks = chunks.collect::<Result<Vec<_>, _>>()?;
    call.wait()?;
    assert!(chunks.len() >= 25 && chunks.iter().all(|chunk| matches!(chunk.body(), Body::Raw(_))));
    assert_eq!(chunks.iter().flat_map(|chunk| chunk.bytes().to_vec()).collect::<Vec<_>>(), bytes);
    Ok(())
}

#[test]
fn what_no_file_allows_is_denied_and_scopes_say_with_what() -> Result<(), Error> {
    let gallery = Gallery::start();
    let client = gallery.client();
    for command in ["delete_album", "app_dirs", "tags.forget_all", "fs.read_file"] {
        let error = client.invoke::<Value>(command, &json!({ "albumName": "cats" })).unwrap_err();
        assert!(error.is_permission_denied(), "{command}: {error}");
    }
    let read = |name: &str| {
        let path = gallery.pictures().join(name);
        fs::write(&path, name).expect("written");
        client.call("read_picture").arg("path", &path).send()
    };
    assert_eq!(read("a.png")?.bytes(), b"a.png");
    let text = refused(read("private/b.png"));
    assert!(text.as_str().is_some_and(|text| text.ends_with("is not a picture that you may see")), "{text}");
    assert!(refused(read("../c.png")).is_string(), "out of the scope");
    Ok(())
}

#[test]
fn a_plugin_keeps_its_state_its_permissions_and_its_scope() -> Result<(), Error> {
    let gallery = Gallery::start();
    let client = gallery.client();
    let tag = |tags: &[&str]| {
        let payload = json!({ "pictureName": "a.png", "tags": tags });
        client.invoke::<Value>("tags.tag", &json!({ "payload": payload }))
    };
    assert_eq!(tag(&["cat", "black"])?, json!({ "tagCount": 2 }));
    assert_eq!(refused(tag(&["private"])), json!("the tag private is not yours to give"));
    assert_eq!(refused(tag(&["x", "y"])), json!("a picture has at most 3 tags"));
    // Its name on the wire, and as Tauri's front end has it.
    for name in ["tags.tagged", "plugin:tags|tagged"] {
        assert_eq!(client.invoke::<Vec<String>>(name, &json!({ "tag": "cat" }))?, ["a.png"]);
    }
    Ok(())
}
