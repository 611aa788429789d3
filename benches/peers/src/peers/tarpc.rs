//! tarpc, with bincode over a Unix socket. Bodies are `Bytes`, which serde has as bytes and not as a sequence of numbers.

use std::path::Path;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tarpc::server::{BaseChannel, Channel as _};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::{client, context, serde_transport};

use crate::asynchronous::{Connection, runtime};
use crate::request::{Fault, answer, request, touch};
use crate::server::ready;

#[allow(missing_docs, unreachable_pub, unused_qualifications)]
mod stubs {
    #[tarpc::service]
    pub(crate) trait Bench {
        async fn get(request: bytes::Bytes) -> Result<bytes::Bytes, String>;
    }
}

use stubs::{Bench, BenchClient};

#[derive(Clone)]
pub(crate) struct Calls(BenchClient);

impl Connection for Calls {
    async fn connect(address: &Path) -> Result<Self, Fault> {
        let mut connecting = serde_transport::unix::connect(address, Bincode::default);
        connecting.config_mut().max_frame_length(usize::MAX);
        Ok(Calls(BenchClient::new(client::Config::default(), connecting.await?).spawn()))
    }

    async fn call(&self, size: u32) -> Result<usize, Fault> {
        let reply = self.0.get(context::current(), Bytes::copy_from_slice(&request(size))).await??;
        Ok(touch(&reply))
    }
}

#[derive(Clone)]
struct Service;

impl Bench for Service {
    async fn get(self, _: context::Context, request: Bytes) -> Result<Bytes, String> {
        answer(&request).map_err(|fault| fault.to_string())
    }
}

pub(crate) fn serve(address: &Path) -> Result<(), Fault> {
    runtime()?.block_on(async {
        let mut incoming = serde_transport::unix::listen(address, Bincode::default).await?;
        incoming.config_mut().max_frame_length(usize::MAX);
        ready()?;
        while let Some(transport) = incoming.next().await {
            let requests = BaseChannel::with_defaults(transport?).execute(Service.serve());
            tokio::spawn(requests.for_each(|response| async move {
                tokio::spawn(response);
            }));
        }
        Ok(())
    })
}
