//! What the guide "State Management" shows.

use serde_json::json;

use crate::answer;

mod blocking {
    use std::sync::Mutex;

    use tauri::State;

    #[derive(Default)]
    pub struct AppState {
        pub counter: u32,
    }

    #[tauri::command]
    pub fn increase_counter(state: State<'_, Mutex<AppState>>) -> u32 {
        let mut state = state.lock().unwrap();
        state.counter += 1;
        state.counter
    }
}

mod with_tokio {
    use tauri::State;
    use tokio::sync::Mutex;

    #[derive(Default)]
    pub struct AsyncState {
        pub counter: u32,
    }

    #[tauri::command]
    pub async fn increase_async(state: State<'_, Mutex<AsyncState>>) -> Result<u32, ()> {
        let mut state = state.lock().await;
        state.counter += 1;
        Ok(state.counter)
    }
}

use std::sync::{Arc, Mutex, RwLock};

use tauri::{AppHandle, Manager, Runtime};

struct AppData {
    welcome_message: &'static str,
}

// A type alias to prevent mistakes
type Names = RwLock<Vec<String>>;

struct Shared(Arc<Mutex<u32>>);

#[tauri::command]
fn welcome(state: tauri::State<AppData>) -> &'static str {
    state.welcome_message
}

#[tauri::command]
fn through_the_handle<R: Runtime>(app: AppHandle<R>) -> u32 {
    let state = app.state::<Mutex<blocking::AppState>>();
    // Lock the mutex to mutably access the state.
    let mut state = state.lock().unwrap();
    state.counter += 10;
    state.counter
}

#[tauri::command]
async fn names(state: tauri::State<'_, Names>, shared: tauri::State<'_, Shared>) -> Result<usize, String> {
    *shared.0.lock().map_err(|error| error.to_string())? += 1;
    Ok(state.read().map_err(|error| error.to_string())?.len())
}

#[test]
fn state_is_managed_and_found_as_the_guide_says() {
    let shared = Shared(Arc::new(Mutex::new(0)));
    let seen = Arc::clone(&shared.0);
    let builder = tauri::testing::mock_builder()
        .setup(move |app| {
            app.manage(AppData { welcome_message: "Welcome to Tauri!" });
            app.manage(Mutex::new(blocking::AppState::default()));
            app.manage(tokio::sync::Mutex::new(with_tokio::AsyncState::default()));
            app.manage(Names::default());
            app.manage(shared);
            let data = app.state::<AppData>();
            assert_eq!(data.welcome_message, "Welcome to Tauri!");
            let names = app.state::<Names>();
            names.write().unwrap().push("Ann".into());
            Ok(())
        })
        .invoke_handler(tauri::generate_handler![
            blocking::increase_counter,
            with_tokio::increase_async,
            welcome,
            through_the_handle,
            names
        ]);
    let app = tauri::testing::mock_app(builder).unwrap();
    let ann = app.user(1000);
    let ask = |command: &str| answer(&ann, command, json!({})).unwrap();
    assert_eq!(ask("increase_counter"), 1);
    assert_eq!(ask("through_the_handle"), 11);
    assert_eq!(ask("increase_async"), 1);
    assert_eq!(ask("welcome"), "Welcome to Tauri!");
    assert_eq!(ask("names"), 1);
    assert_eq!(*seen.lock().unwrap(), 1);
}
