//! The stubs of gRPC, by tonic's own generator. The message is written in Rust, so no `protoc` is needed.

fn main() {
    let method = tonic_build::manual::Method::builder()
        .name("get")
        .route_name("Get")
        .input_type("crate::peers::tonic::Body")
        .output_type("crate::peers::tonic::Body")
        .codec_path("tonic_prost::ProstCodec")
        .build();
    let service =
        tonic_build::manual::Service::builder().name("Bench").package("bench").method(method).build();
    tonic_build::manual::Builder::new().compile(&[service]);
    println!("cargo:rerun-if-changed=build.rs");
}
