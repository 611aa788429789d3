//! gRPC: tonic, over a Unix socket. Bodies are `bytes` of protobuf, which prost takes from what was received without a copy.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Request, Response, Status};

use crate::asynchronous::{Connection, runtime};
use crate::request::{Fault, LONGEST, answer, request, touch};
use crate::server::ready;

#[allow(missing_docs, unreachable_pub, clippy::all)]
mod stubs {
    include!(concat!(env!("OUT_DIR"), "/bench.Bench.rs"));
}

use stubs::bench_client::BenchClient;
use stubs::bench_server::{Bench, BenchServer};

/// Both messages: `bytes body = 1`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Body {
    #[prost(bytes = "bytes", tag = "1")]
    body: Bytes,
}

/// What one message may have, above the longest reply.
const MOST: usize = LONGEST + 1024;

/// What may be sent before the other end says that it has room, of a stream and of a connection: a whole reply.
const WINDOW: u32 = 32 << 20;

#[derive(Clone)]
pub(crate) struct Calls(BenchClient<Channel>);

impl Connection for Calls {
    async fn connect(address: &Path) -> Result<Self, Fault> {
        let path = address.to_owned();
        // The address is in the connector; this one is what HTTP wants.
        let endpoint = Endpoint::from_static("http://localhost")
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let channel =
            endpoint.connect_with_connector(tower::service_fn(move |_: Uri| connect(path.clone()))).await?;
        Ok(Calls(BenchClient::new(channel).max_decoding_message_size(MOST)))
    }

    async fn call(&self, size: u32) -> Result<usize, Fault> {
        let body = Body { body: Bytes::copy_from_slice(&request(size)) };
        let reply = self.0.clone().get(body).await?;
        Ok(touch(&reply.get_ref().body))
    }
}

async fn connect(path: PathBuf) -> std::io::Result<TokioIo<UnixStream>> {
    Ok(TokioIo::new(UnixStream::connect(path).await?))
}

struct Service;

#[tonic::async_trait]
impl Bench for Service {
    async fn get(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let body =
            answer(&request.get_ref().body).map_err(|fault| Status::invalid_argument(fault.to_string()))?;
        Ok(Response::new(Body { body }))
    }
}

pub(crate) fn serve(address: &Path) -> Result<(), Fault> {
    runtime()?.block_on(async {
        let listener = UnixListener::bind(address)?;
        ready()?;
        let service = BenchServer::new(Service).max_encoding_message_size(MOST);
        let server = Server::builder()
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .add_service(service);
        Ok(server.serve_with_incoming(UnixListenerStream::new(listener)).await?)
    })
}
