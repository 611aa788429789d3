//! ttrpc, its asynchronous client and server. Both messages are protobuf's own `BytesValue`, so no generator is needed.

use std::collections::HashMap;
use std::path::Path;

use async_trait::async_trait;
use protobuf::Message as _;
use protobuf::well_known_types::wrappers::BytesValue;
use ttrpc::r#async::{Client, MethodHandler, Server, Service, TtrpcContext};
use ttrpc::proto::{Request, Response};

use crate::asynchronous::{Connection, runtime};
use crate::request::{Fault, answer, request, touch};
use crate::server::ready;

const SERVICE: &str = "bench.Bench";
const METHOD: &str = "Get";

#[derive(Clone)]
pub(crate) struct Calls(Client);

impl Connection for Calls {
    async fn connect(address: &Path) -> Result<Self, Fault> {
        Ok(Calls(Client::connect(&sockaddr(address)).await?))
    }

    async fn call(&self, size: u32) -> Result<usize, Fault> {
        let body = BytesValue { value: request(size).to_vec(), ..BytesValue::default() };
        let call = Request {
            service: SERVICE.to_owned(),
            method: METHOD.to_owned(),
            payload: body.write_to_bytes()?,
            ..Request::default()
        };
        let reply = self.0.request(call).await?;
        Ok(touch(&BytesValue::parse_from_bytes(&reply.payload)?.value))
    }
}

struct Get;

#[async_trait]
impl MethodHandler for Get {
    async fn handler(&self, _: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        let reply = BytesValue::parse_from_bytes(&request.payload).map_err(|error| error.to_string());
        let reply = reply.and_then(|request| answer(&request.value).map_err(|fault| fault.to_string()));
        let body =
            BytesValue { value: reply.map_err(ttrpc::Error::Others)?.to_vec(), ..BytesValue::default() };
        let payload = body.write_to_bytes().map_err(|error| ttrpc::Error::Others(error.to_string()))?;
        Ok(Response { payload, ..Response::default() })
    }
}

pub(crate) fn serve(address: &Path) -> Result<(), Fault> {
    runtime()?.block_on(async {
        let get: Box<dyn MethodHandler + Send + Sync> = Box::new(Get);
        let service = Service { methods: HashMap::from([(METHOD.to_owned(), get)]), streams: HashMap::new() };
        let services = HashMap::from([(SERVICE.to_owned(), service)]);
        let mut server = Server::new().bind(&sockaddr(address))?.register_service(services);
        server.start().await?;
        ready()?;
        std::future::pending().await
    })
}

fn sockaddr(address: &Path) -> String {
    format!("unix://{}", address.display())
}
