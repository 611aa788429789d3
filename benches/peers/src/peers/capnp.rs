//! Cap'n Proto RPC: `capnp-rpc` between two parties, with `Data`. The schema is `schema/echo.capnp`; its stubs are committed,
//! so that no `capnp` is needed.

use std::path::Path;
use std::rc::Rc;

use capnp::message::ReaderOptions;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::twoparty::VatNetwork;
use capnp_rpc::{RpcSystem, new_client};
use futures_util::io::{AsyncReadExt as _, BufReader, BufWriter};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::compat::TokioAsyncReadCompatExt as _;

use crate::asynchronous::{Connection, runtime};
use crate::echo_capnp::echo;
use crate::request::{Fault, answer, request, touch};
use crate::server::ready;

#[derive(Clone)]
pub(crate) struct Calls(echo::Client);

/// The protocol's limit against messages that are read again and again stands in the way of a long one.
fn options() -> ReaderOptions {
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(None);
    options
}

fn system(socket: UnixStream, side: Side, bootstrap: Option<capnp::capability::Client>) -> RpcSystem<Side> {
    let (reader, writer) = socket.compat().split();
    let network = VatNetwork::new(BufReader::new(reader), BufWriter::new(writer), side, options());
    RpcSystem::new(Box::new(network), bootstrap)
}

impl Connection for Calls {
    async fn connect(address: &Path) -> Result<Self, Fault> {
        let mut system = system(UnixStream::connect(address).await?, Side::Client, None);
        let client = system.bootstrap(Side::Server);
        tokio::task::spawn_local(system);
        Ok(Calls(client))
    }

    async fn call(&self, size: u32) -> Result<usize, Fault> {
        let mut call = self.0.get_request();
        call.get().set_request(&request(size));
        let reply = call.send().promise.await?;
        Ok(touch(reply.get()?.get_reply()?))
    }
}

struct Service;

impl echo::Server for Service {
    async fn get(
        self: Rc<Self>,
        params: echo::GetParams,
        mut results: echo::GetResults,
    ) -> Result<(), capnp::Error> {
        let reply =
            answer(params.get()?.get_request()?).map_err(|fault| capnp::Error::failed(fault.to_string()))?;
        results.get().set_reply(&reply);
        Ok(())
    }
}

pub(crate) fn serve(address: &Path) -> Result<(), Fault> {
    runtime()?.block_on(async {
        let listener = UnixListener::bind(address)?;
        let client: echo::Client = new_client(Service);
        ready()?;
        loop {
            let (socket, _) = listener.accept().await?;
            tokio::task::spawn_local(system(socket, Side::Server, Some(client.client.clone())));
        }
    })
}
