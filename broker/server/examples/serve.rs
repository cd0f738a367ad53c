//! Serves the broker's resources on an address, from a data directory, and writes the administrator's kubeconfig beside it.
//!
//! `cargo run -p daisy-api-server --example serve -- DATA_DIR [ADDRESS]`

use std::path::PathBuf;

use daisy_api_server::{Error, Options, Server};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let data_dir = PathBuf::from(arguments.next().unwrap_or_else(|| "daisy-data".to_owned()));
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:6443".to_owned());
    let server = Server::open(Options::new(&data_dir))?;
    let listeners = Server::bind(std::slice::from_ref(&address))?;
    let kubeconfig = data_dir.join("kubeconfig");
    server.write_admin_kubeconfig(&kubeconfig, &format!("https://{address}"), "daisy")?;
    println!("kubectl --kubeconfig {} get namespaces", kubeconfig.display());
    server
        .serve(listeners, async {
            let _ = tokio::signal::ctrl_c().await;
        })
        .await
}
