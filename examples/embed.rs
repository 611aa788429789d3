//! A daemon inside a program: no flags, no signals, a listener and a policy that the program gives.
//!
//! `cargo run --example embed` serves, calls itself and checks what comes back.

use std::error::Error;

use invoked::ipc::{CancellationToken, Channel, ChannelReader, RecvError, Request, State};
use invoked::plugin::{self, Plugin};
use invoked::transport::{Access, Listener};
use invoked::{command, generate_handler};
use invoked_client::blocking::Client;
use invoked_client::{Address, Options, Overflow, Update};
use serde_json::{Value, json};

/// Who may do what in this program; `examples/capabilities` has more.
const POLICY: &str = include_str!("embed.toml");

struct Unit(&'static str);

/// Measures a text.
#[command(inline)]
fn measure(text: &str, unit: State<'_, Unit>) -> String {
    format!("{} {}", text.len(), unit.0)
}

/// Turns bytes round.
#[command]
fn reverse(request: Request<'_>) -> Vec<u8> {
    request.body().bytes().iter().rev().copied().collect()
}

/// Divides; nobody divides by zero.
#[command]
fn divide(dividend: i64, divisor: i64) -> Result<i64, String> {
    dividend.checked_div(divisor).ok_or_else(|| format!("{dividend} by {divisor}"))
}

/// Waits until its caller has had enough.
#[command]
async fn idle(cancelled: CancellationToken) {
    cancelled.cancelled().await;
}

/// Counts down, and tells each number as it comes.
#[command]
fn count_down(from: u32, on_number: Channel<u32>) -> invoked::Result<()> {
    (0..=from).rev().try_for_each(|number| on_number.send(number))
}

/// Adds up what the caller sends.
#[command]
fn add_up(mut numbers: ChannelReader<u64>) -> Result<u64, RecvError> {
    numbers.try_fold(0, |sum, number| Ok(sum + number?))
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let policy = directory.path().join("capabilities");
    std::fs::create_dir(&policy)?;
    std::fs::write(policy.join("embed.toml"), POLICY)?;
    let address: Address = format!("unix:{}/run/embed.sock", directory.path().display()).parse()?;

    let listener = Listener::bind(&address, Access::Owner)?;
    let arithmetic: Plugin =
        plugin::Builder::new("arithmetic").invoke_handler(generate_handler![divide, idle]).build();
    let daemon = invoked::Builder::default()
        .manage(Unit("bytes"))
        .invoke_handler(generate_handler![measure, reverse, count_down, add_up])
        .plugin(arithmetic)
        .capabilities(&policy)
        .serve(listener)?;

    call(address)?;
    daemon.shutdown()?;
    println!("all as it should be");
    Ok(())
}

fn call(address: Address) -> Result<(), Box<dyn Error>> {
    let client = Client::connect(Options::new().address(address))?;

    let measured: String = client.invoke("measure", &json!({ "text": "hello" }))?;
    assert_eq!(measured, "5 bytes");
    assert_eq!(client.call("reverse").raw("abc").send()?.bytes(), b"cba");
    assert_eq!(client.invoke::<i64>("arithmetic.divide", &json!({ "dividend": 7, "divisor": 2 }))?, 3);

    // What the command sends while it runs.
    let (count_down, numbers) = client.call("count_down").arg("from", 3).channel("onNumber");
    let count_down = count_down.start()?;
    let numbers: Result<Vec<u32>, _> = numbers.map(|number| number?.json()).collect();
    assert_eq!(numbers?, [3, 2, 1, 0]);
    count_down.wait()?;

    // Only news of it: this reader holds nobody up, and of what it misses it gets the number.
    let (count_down, numbers) =
        client.call("count_down").arg("from", 3).subscribe("onNumber", Overflow::Latest);
    count_down.send()?;
    let numbers: Vec<Update> = numbers.collect::<Result<_, _>>()?;
    let last = numbers.into_iter().filter_map(Update::into_item).last().expect("the last one comes");
    assert_eq!(last.json::<u32>()?, 0);

    // What the caller sends while the command runs.
    let (add_up, mut numbers) = client.call("add_up").channel_to("numbers");
    let add_up = add_up.start()?;
    (1..=100).try_for_each(|number| numbers.send(&number))?;
    numbers.close();
    assert_eq!(add_up.wait()?.json::<u64>()?, 5050);

    // The command's own error: any JSON.
    let by_zero = json!({ "dividend": 7, "divisor": 0 });
    let error = client.invoke::<i64>("arithmetic.divide", &by_zero).expect_err("it refuses");
    assert!(error.is_application());
    assert_eq!(error.json::<Value>(), Some(Value::from("7 by 0")));

    // The framework's: it has a code, and says whether the command may have run.
    let error = client.call("arithmetic.idle").send().expect_err("the policy denies it");
    assert!(error.is_permission_denied());
    assert_eq!(error.delivery().name(), "not_delivered");
    Ok(())
}
