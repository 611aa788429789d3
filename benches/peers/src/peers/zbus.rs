//! D-Bus: zbus, from peer to peer and through a bus. Bodies are `ay`, by `serde_bytes`.

use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_bytes::{ByteBuf, Bytes};
use tokio::net::UnixListener;
use zbus::connection::Builder;
use zbus::{fdo, interface};

use crate::asynchronous::{Connection, runtime};
use crate::request::{Fault, answer, request, touch};
use crate::server::ready;

const PATH: &str = "/bench";
const INTERFACE: &str = "bench.Bench";
const NAME: &str = "bench.Server";

/// From peer to peer.
#[derive(Clone)]
pub(crate) struct Direct(zbus::Connection);

/// Through a bus.
#[derive(Clone)]
pub(crate) struct Routed(zbus::Connection);

impl Connection for Direct {
    async fn connect(address: &Path) -> Result<Self, Fault> {
        let socket = UnixStream::connect(address)?;
        Ok(Direct(Builder::unix_stream(socket).p2p().build().await?))
    }

    async fn call(&self, size: u32) -> Result<usize, Fault> {
        call(&self.0, None, size).await
    }
}

impl Connection for Routed {
    async fn connect(address: &Path) -> Result<Self, Fault> {
        Ok(Routed(Builder::address(bus_address(address).as_str()).build().await?))
    }

    async fn call(&self, size: u32) -> Result<usize, Fault> {
        call(&self.0, Some(NAME), size).await
    }
}

async fn call(connection: &zbus::Connection, name: Option<&str>, size: u32) -> Result<usize, Fault> {
    let request = request(size);
    let reply = connection.call_method(name, PATH, Some(INTERFACE), "Get", &Bytes::new(&request)).await?;
    let body = reply.body();
    let bytes: &[u8] = body.deserialize()?;
    Ok(touch(bytes))
}

struct Service;

#[interface(name = "bench.Bench")]
impl Service {
    async fn get(&self, request: ByteBuf) -> fdo::Result<ByteBuf> {
        let reply = answer(&request).map_err(|fault| fdo::Error::InvalidArgs(fault.to_string()))?;
        Ok(ByteBuf::from(reply.to_vec()))
    }
}

pub(crate) fn serve_direct(address: &Path) -> Result<(), Fault> {
    runtime()?.block_on(async {
        let listener = UnixListener::bind(address)?;
        ready()?;
        loop {
            let socket = listener.accept().await?.0.into_std()?;
            tokio::spawn(async move {
                let guid = zbus::Guid::generate();
                let builder = Builder::unix_stream(socket).server(guid).p2p().serve_at(PATH, Service);
                // A client that goes away ends its connection, not the server.
                if let Ok(connection) = builder.build().await {
                    connection.closed().await;
                }
            });
        }
    })
}

/// Serves on a bus that listens at `address`.
pub(crate) fn serve_routed(address: &Path) -> Result<(), Fault> {
    runtime()?.block_on(async {
        let builder = Builder::address(bus_address(address).as_str()).name(NAME).serve_at(PATH, Service);
        let _connection = builder.build().await?;
        ready()?;
        std::future::pending().await
    })
}

fn bus_address(path: &Path) -> String {
    format!("unix:path={}", path.display())
}
