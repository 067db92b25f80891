//! Passes connections on, and can lose an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// How long the request has to arrive and to be done, before its connection breaks.
const LOST: Duration = Duration::from_millis(500);

/// A proxy in front of a daemon. Once it is armed, it keeps the next answer back, and then breaks the connection.
pub struct Proxy {
    pub address: String,
    armed: Arc<AtomicBool>,
}

impl Proxy {
    /// Listens on a free port.
    pub async fn start(target: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let armed = Arc::new(AtomicBool::new(false));
        let arms = armed.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let daemon = TcpStream::connect(&target).await.unwrap();
                tokio::spawn(pass_on(client, daemon, arms.clone()));
            }
        });
        Proxy { address, armed }
    }

    /// The next answer will be lost.
    pub fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }
}

async fn pass_on(mut client: TcpStream, mut daemon: TcpStream, armed: Arc<AtomicBool>) {
    let (mut request, mut answer) = (vec![0; 65536], vec![0; 65536]);
    loop {
        tokio::select! {
            read = client.read(&mut request) => match read {
                Ok(read) if read > 0 => {
                    if daemon.write_all(&request[..read]).await.is_err() {
                        return;
                    }
                    if armed.swap(false, Ordering::SeqCst) {
                        sleep(LOST).await;
                        return;
                    }
                }
                _ => return,
            },
            read = daemon.read(&mut answer) => match read {
                Ok(read) if read > 0 && client.write_all(&answer[..read]).await.is_ok() => {}
                _ => return,
            },
        }
    }
}
