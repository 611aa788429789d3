//! Varlink: zlink. Its messages are JSON, which has no bytes; the reply is a string of as many characters, which is what
//! bytes that are text cost. Others would be base64: a third more, and coded by hand on both sides.

use std::path::Path;
use std::rc::Rc;

use futures_util::{StreamExt as _, pin_mut};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use zlink::tokio::unix;
use zlink::{Call, ReplyError, Server, proxy, service};

use crate::asynchronous::{Connection, runtime};
use crate::request::{Fault, LONGEST, REQUEST, touch};
use crate::server::ready;

/// A reply that is read where it was received.
#[derive(Debug, Serialize, Deserialize, zlink::introspect::Type)]
struct Text<'a> {
    text: &'a str,
}

/// The replies of calls that were sent together are owned: zlink uses its buffer again for the next.
#[derive(Debug, Deserialize)]
struct Owned {
    text: String,
}

#[derive(Debug, PartialEq, ReplyError, zlink::introspect::ReplyError)]
#[zlink(interface = "bench.Bench")]
enum Refused {
    Refused,
}

#[proxy("bench.Bench")]
trait Bench {
    async fn get(&mut self, request: &str) -> zlink::Result<Result<Text<'_>, Refused>>;
}

#[derive(Debug, Serialize)]
#[serde(tag = "method", content = "parameters")]
enum Method<'a> {
    #[serde(rename = "bench.Bench.Get")]
    Get { request: &'a str },
}

/// A connection answers in order, and one task at a time uses it.
#[derive(Clone)]
pub(crate) struct Calls(Rc<Mutex<unix::Connection>>);

/// A number with zeros before it, as long as all requests are.
fn request(size: u32) -> String {
    format!("{size:0width$}", width = REQUEST)
}

impl Connection for Calls {
    const BATCHES: bool = true;

    async fn connect(address: &Path) -> Result<Self, Fault> {
        Ok(Calls(Rc::new(Mutex::new(unix::connect(address).await?))))
    }

    async fn call(&self, size: u32) -> Result<usize, Fault> {
        let mut connection = self.0.lock().await;
        let reply = connection.get(&request(size)).await?.map_err(|refused| format!("{refused:?}"))?;
        Ok(touch(reply.text.as_bytes()))
    }

    async fn batch(&self, size: u32, count: u32) -> Result<(), Fault> {
        let mut connection = self.0.lock().await;
        let request = request(size);
        let calls = (0..count).map(|_| Call::new(Method::Get { request: &request }));
        let replies = connection.chain_from_iter::<Method<'_>, _, _>(calls)?.send::<Owned, Refused>().await?;
        pin_mut!(replies);
        while let Some(reply) = replies.next().await {
            let (reply, _) = reply?;
            let reply = reply.map_err(|refused| format!("{refused:?}"))?.into_parameters();
            let got = reply.map_or(0, |reply| touch(reply.text.as_bytes()));
            if u32::try_from(got) != Ok(size) {
                return Err(crate::peer::wrong(got, size));
            }
        }
        Ok(())
    }
}

struct Service {
    text: String,
}

#[service(interface = "bench.Bench")]
impl Service {
    async fn get(&mut self, request: String) -> Result<Text<'_>, Refused> {
        let size = request.parse().ok().filter(|size| *size <= LONGEST).ok_or(Refused::Refused)?;
        Ok(Text { text: &self.text[..size] })
    }
}

pub(crate) fn serve(address: &Path) -> Result<(), Fault> {
    runtime()?.block_on(async {
        let listener = unix::bind(address)?;
        ready()?;
        Ok(Server::new(listener, Service { text: "7".repeat(LONGEST) }).run().await?)
    })
}
