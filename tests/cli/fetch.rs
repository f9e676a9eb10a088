//! `fetch` from a server on this machine.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    sync::mpsc::{Receiver, channel},
    thread,
};

use super::Sandbox;

const FILE: &str = "resnet50-11ad3fa6.pth";

/// Its sha256 begins with the published prefix of resnet50's weights, which are 32 bits.
const BODY: &[u8] = b"not weights 662722630";

/// A server that answers each request with `answer(request's lines)`, and the requests.
fn serve(
    answer: impl Fn(&[String]) -> Vec<u8> + Send + 'static,
) -> (String, Receiver<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/models", listener.local_addr().unwrap());
    let (sender, requests) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let request: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            stream.write_all(&answer(&request)).ok();
            sender.send(request).ok();
        }
    });
    (address, requests)
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}Connection: close\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn stored() -> String {
    format!("saliency/weights/{FILE}")
}

#[test]
fn a_file_is_fetched_once_and_found_by_explain() {
    let sandbox = Sandbox::with_scene();
    let (mirror, requests) = serve(|_| answer("200 OK", "", BODY));
    let path = sandbox.path(&stored());
    for _ in 0..2 {
        let said = sandbox.succeeds(&["fetch", "resnet50", "--mirror", &mirror]);
        assert_eq!(said.trim_end(), path.to_str().unwrap());
        assert_eq!(sandbox.read(&stored()), BODY);
    }
    let requests: Vec<Vec<String>> = requests.try_iter().collect();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0][0], format!("GET /models/{FILE} HTTP/1.1"));
    let models = sandbox.json(&["models", "--json"]);
    let models = models.as_array().unwrap();
    let resnet50 = models.iter().find(|m| m["name"] == "resnet50").unwrap();
    assert_eq!(resnet50["weights"], path.to_str().unwrap());
    // They are used by default; that they are not really weights is said.
    let explain = ["explain", "scene.png", "--out", "out", "--device", "cpu"];
    sandbox.refuses(1, &explain, &[FILE, "is not a known weight format"]);
}

#[test]
fn the_mirror_and_the_folder_can_be_chosen() {
    let sandbox = Sandbox::new();
    let (mirror, _) = serve(|_| answer("200 OK", "", BODY));
    let mut command = sandbox.command(&["fetch", "resnet50", "--cache", "elsewhere"]);
    let output = command.env("SALIENCY_MIRROR", mirror).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(sandbox.read(&format!("elsewhere/{FILE}")), BODY);
}

#[test]
fn a_download_goes_on_where_it_stopped() {
    let sandbox = Sandbox::new();
    let (mirror, requests) = serve(|request| {
        let ranged = request
            .iter()
            .any(|line| line.to_lowercase() == "range: bytes=9-");
        match ranged {
            true => answer(
                "206 Partial Content",
                &format!(
                    "Content-Range: bytes 9-{}/{}\r\n",
                    BODY.len() - 1,
                    BODY.len()
                ),
                &BODY[9..],
            ),
            // The connection ends early.
            false => {
                let whole = answer("200 OK", "", BODY);
                whole[..whole.len() - BODY.len() + 9].to_vec()
            }
        }
    });
    let fetch = ["fetch", "resnet50", "--mirror", &mirror];
    sandbox.refuses(1, &fetch, &["stopped after 9 bytes", "run again"]);
    assert!(!sandbox.path(&stored()).exists());
    sandbox.succeeds(&fetch);
    assert_eq!(sandbox.read(&stored()), BODY);
    assert_eq!(requests.try_iter().count(), 2);
}

#[test]
fn another_file_than_the_published_one_is_deleted() {
    let sandbox = Sandbox::new();
    let (mirror, _) = serve(|_| answer("200 OK", "", b"<html>log in first</html>"));
    let fetch = ["fetch", "resnet50", "--mirror", &mirror];
    sandbox.refuses(1, &fetch, &["sha256", "expected 11ad3fa6", "deleted", FILE]);
    let left = sandbox.files("saliency/weights");
    assert!(left.iter().all(|name| name.ends_with(".lock")), "{left:?}");
}

#[test]
fn what_a_server_refuses_can_be_downloaded_by_hand() {
    let sandbox = Sandbox::new();
    let path = sandbox.path(&stored());
    let by_hand = format!("download it by hand to {}", path.display());
    for status in ["404 Not Found", "403 Forbidden", "503 Service Unavailable"] {
        let (mirror, _) = serve(move |_| answer(status, "", b"sorry"));
        let url = format!("{mirror}/{FILE}");
        let fetch = ["fetch", "resnet50", "--mirror", &mirror];
        sandbox.refuses(1, &fetch, &[&status[..3], &url, &by_hand]);
        assert!(!path.exists());
    }
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mirror = format!("http://{closed}");
    let fetch = ["fetch", "resnet50", "--mirror", &mirror];
    sandbox.refuses(1, &fetch, &["Connection refused", &by_hand]);
    assert!(!path.exists());
}

#[test]
fn what_cannot_be_fetched() {
    let sandbox = Sandbox::new();
    sandbox.refuses(2, &["fetch", "resnet51"], &["'resnet51'", "resnet50"]);
    sandbox.refuses(2, &["fetch", "cifar_resnet20"], &["'cifar_resnet20'"]);
    sandbox.refuses(2, &["fetch"], &["<NAME>"]);
    for mirror in ["nonsense", "ftp://127.0.0.1/models"] {
        let fetch = ["fetch", "resnet50", "--mirror", mirror];
        sandbox.refuses(1, &fetch, &["cannot download", mirror]);
    }
    sandbox.write("file", "");
    let fetch = ["fetch", "resnet50", "--cache", "file/cache"];
    sandbox.refuses(1, &fetch, &["file/cache"]);
}
