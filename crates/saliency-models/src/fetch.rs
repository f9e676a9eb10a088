//! Downloading of published weights into the user's cache folder.
//!
//! A file is fetched once: it is resumed where a download stopped, checked against the sha256
//! prefix in its name (as torchvision publishes them), and only then given its name. Proxies are
//! taken from the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use thiserror::Error;
use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body, Proxy};

/// A file of weights that its makers publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Name of the network, `resnet50` say.
    pub name: &'static str,
    /// torchvision's name of this training.
    pub training: &'static str,
    /// Folder it is published in, without the last `/`.
    pub base_url: &'static str,
    /// Name of the file, `NAME-SHA256PREFIX.pth`.
    pub file: &'static str,
    /// First hexadecimal digits of the file's sha256.
    pub sha256: &'static str,
}

const fn torchvision(
    name: &'static str,
    training: &'static str,
    file: &'static str,
    sha256: &'static str,
) -> Published {
    Published {
        name,
        training,
        base_url: "https://download.pytorch.org/models",
        file,
        sha256,
    }
}

/// The weights that [`fetch`] knows: torchvision's, trained on ImageNet-1k.
///
/// ```
/// use saliency_models::fetch::PUBLISHED;
///
/// let resnet50 = PUBLISHED.iter().find(|weights| weights.name == "resnet50").unwrap();
/// assert_eq!(resnet50.url(), "https://download.pytorch.org/models/resnet50-11ad3fa6.pth");
/// ```
pub const PUBLISHED: &[Published] = &[
    torchvision(
        "resnet18",
        "IMAGENET1K_V1",
        "resnet18-f37072fd.pth",
        "f37072fd",
    ),
    torchvision(
        "resnet34",
        "IMAGENET1K_V1",
        "resnet34-b627a593.pth",
        "b627a593",
    ),
    torchvision(
        "resnet50",
        "IMAGENET1K_V2",
        "resnet50-11ad3fa6.pth",
        "11ad3fa6",
    ),
    torchvision(
        "resnet101",
        "IMAGENET1K_V2",
        "resnet101-cd907fc2.pth",
        "cd907fc2",
    ),
    torchvision(
        "resnet152",
        "IMAGENET1K_V2",
        "resnet152-f82ba261.pth",
        "f82ba261",
    ),
    torchvision(
        "squeezenet1_1",
        "IMAGENET1K_V1",
        "squeezenet1_1-b8a52dc0.pth",
        "b8a52dc0",
    ),
];

impl Published {
    /// Where the file is published.
    pub fn url(&self) -> String {
        format!("{}/{}", self.base_url, self.file)
    }
}

/// Where files come from and where they go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Folder for the files; the user's cache folder for `saliency` when `None`.
    pub cache_dir: Option<PathBuf>,
    /// Address of a folder to fetch from instead of the publisher's, a mirror say.
    pub base_url: Option<String>,
}

/// Why weights could not be fetched.
#[derive(Debug, Error)]
pub enum FetchError {
    /// Nothing is published under this name.
    #[error("no published weights are called '{name}'; known are {}", known())]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// The user has no home folder.
    #[error("this user has no cache folder; name a folder for the weights")]
    NoCacheFolder,
    /// The cache cannot be written or read.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        reason: io::Error,
    },
    /// The server cannot be reached.
    #[error("cannot download {url} ({reason}); download it by hand to {}", path.display())]
    Network {
        /// The address.
        url: String,
        /// Where the file belongs.
        path: PathBuf,
        /// What failed.
        reason: String,
    },
    /// The server answered with an error.
    #[error(
        "cannot download {url} (the server answered {status}); download it by hand to {}",
        path.display()
    )]
    Status {
        /// The address.
        url: String,
        /// Where the file belongs.
        path: PathBuf,
        /// HTTP status code.
        status: u16,
    },
    /// The connection ended before the file did. What has come is kept.
    #[error(
        "download of {url} stopped after {done} bytes ({reason}); run again to go on from there"
    )]
    Interrupted {
        /// The address.
        url: String,
        /// Bytes on disk.
        done: u64,
        /// What failed.
        reason: String,
    },
    /// The file is not the one that was published. It is deleted.
    #[error(
        "{url} gave a file with sha256 {found}, expected {expected}...; it was deleted, run again \
         or download it by hand to {}",
        path.display()
    )]
    WrongHash {
        /// The address.
        url: String,
        /// Where the file belongs.
        path: PathBuf,
        /// The published prefix.
        expected: String,
        /// The whole sha256 of what came.
        found: String,
    },
}

fn known() -> String {
    let names: Vec<&str> = PUBLISHED.iter().map(|weights| weights.name).collect();
    names.join(", ")
}

/// The path of the weights called `name`, downloaded if they are not there yet.
///
/// `progress` is told the bytes on disk and, once the server has said so, the size of the file.
/// A second process that wants the same file waits for the first.
///
/// # Errors
/// [`FetchError`]; without a network it says what to download and where to put it.
///
/// ```
/// use saliency_models::fetch::{Options, fetch};
///
/// let error = fetch("resnet51", &Options::default(), &mut |_, _| {}).unwrap_err();
/// assert!(error.to_string().starts_with("no published weights are called 'resnet51'"));
/// ```
pub fn fetch(
    name: &str,
    options: &Options,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<PathBuf, FetchError> {
    let agent = agent(Proxy::try_from_env());
    fetch_published(published(name)?, options, &agent, progress)
}

/// The path of the weights called `name` if they have been fetched before and are whole.
///
/// ```
/// use saliency_models::fetch::{Options, cached};
///
/// let empty = Options { cache_dir: Some("no/such/folder".into()), ..Options::default() };
/// assert_eq!(cached("resnet50", &empty), None);
/// ```
pub fn cached(name: &str, options: &Options) -> Option<PathBuf> {
    let weights = published(name).ok()?;
    let path = folder(options).ok()?.join(weights.file);
    is_whole(&path, weights).then_some(path)
}

/// The published weights called `name`.
///
/// # Errors
/// [`FetchError::Unknown`], with the names there are.
///
/// ```
/// assert_eq!(saliency_models::fetch::published("resnet18")?.sha256, "f37072fd");
/// # Ok::<(), saliency_models::fetch::FetchError>(())
/// ```
pub fn published(name: &str) -> Result<&'static Published, FetchError> {
    let found = PUBLISHED.iter().find(|weights| weights.name == name);
    found.ok_or_else(|| FetchError::Unknown { name: name.into() })
}

/// Waits for at most half a minute on a silent server, but as long as data come.
fn agent(proxy: Option<Proxy>) -> Agent {
    let patience = Some(Duration::from_secs(30));
    Agent::config_builder()
        .http_status_as_error(false)
        .user_agent(concat!("saliency/", env!("CARGO_PKG_VERSION")))
        .proxy(proxy)
        .timeout_resolve(patience)
        .timeout_connect(patience)
        .timeout_recv_response(patience)
        .timeout_per_read(patience)
        .build()
        .into()
}

fn folder(options: &Options) -> Result<PathBuf, FetchError> {
    if let Some(folder) = &options.cache_dir {
        return Ok(folder.clone());
    }
    directories::ProjectDirs::from("", "", "saliency")
        .map(|dirs| dirs.cache_dir().join("weights"))
        .ok_or(FetchError::NoCacheFolder)
}

fn fetch_published(
    weights: &Published,
    options: &Options,
    agent: &Agent,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<PathBuf, FetchError> {
    let folder = folder(options)?;
    let path = folder.join(weights.file);
    if is_whole(&path, weights) {
        return Ok(path);
    }
    fs::create_dir_all(&folder).map_err(|reason| file_error(&folder, reason))?;
    let _lock = lock(&folder.join(format!("{}.lock", weights.file)))?;
    // Another process may have fetched it while this one waited.
    if is_whole(&path, weights) {
        return Ok(path);
    }

    let url = match &options.base_url {
        Some(base) => format!("{}/{}", base.trim_end_matches('/'), weights.file),
        None => weights.url(),
    };
    let part = folder.join(format!("{}.part", weights.file));
    if !is_whole(&part, weights) {
        download(&url, &path, &part, agent, progress)?;
    }

    let found = sha256(&part).map_err(|reason| file_error(&part, reason))?;
    if !found.starts_with(weights.sha256) {
        fs::remove_file(&part).map_err(|reason| file_error(&part, reason))?;
        return Err(FetchError::WrongHash {
            url,
            path,
            expected: weights.sha256.into(),
            found,
        });
    }
    fs::rename(&part, &path).map_err(|reason| file_error(&path, reason))?;
    Ok(path)
}

/// Brings `part` to its full length from `url`, going on from what it already holds.
fn download(
    url: &str,
    path: &Path,
    part: &Path,
    agent: &Agent,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<(), FetchError> {
    let failed = |reason| file_error(part, reason);
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(part)
        .map_err(failed)?;
    let mut done = file.seek(SeekFrom::End(0)).map_err(failed)?;
    let mut response = request(url, path, agent, done)?;
    let mut resumes = range_start(&response) == Some(done);
    let status = response.status();
    let elsewhere = status == StatusCode::PARTIAL_CONTENT && !resumes;
    if elsewhere || status == StatusCode::RANGE_NOT_SATISFIABLE {
        response = request(url, path, agent, 0)?;
        resumes = false;
    }
    if !response.status().is_success() {
        return Err(FetchError::Status {
            url: url.into(),
            path: path.into(),
            status: response.status().as_u16(),
        });
    }
    if !resumes {
        file.set_len(0).map_err(failed)?;
        done = file.seek(SeekFrom::Start(0)).map_err(failed)?;
    }

    let total = content_length(&response).map(|rest| done + rest);
    let interrupted = |done, reason: String| FetchError::Interrupted {
        url: url.into(),
        done,
        reason,
    };
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 1 << 16];
    progress(done, total);
    loop {
        let count = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(interrupted(done, one_line(error))),
        };
        file.write_all(&buffer[..count]).map_err(failed)?;
        done += count as u64;
        progress(done, total);
    }
    match total {
        Some(total) if done < total => Err(interrupted(done, format!("of {total}"))),
        _ => file.sync_all().map_err(failed),
    }
}

fn request(url: &str, path: &Path, agent: &Agent, from: u64) -> Result<Response<Body>, FetchError> {
    let mut request = agent.get(url).header(header::ACCEPT_ENCODING, "identity");
    if from > 0 {
        request = request.header(header::RANGE, format!("bytes={from}-"));
    }
    request.call().map_err(|error| FetchError::Network {
        url: url.into(),
        path: path.into(),
        reason: one_line(error),
    })
}

/// The first byte of a partial answer: 10 of `Content-Range: bytes 10-99/100`.
fn range_start(response: &Response<Body>) -> Option<u64> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return None;
    }
    let value = response
        .headers()
        .get(header::CONTENT_RANGE)?
        .to_str()
        .ok()?;
    let range = value.trim().strip_prefix("bytes")?.trim_start();
    range.split('-').next()?.parse().ok()
}

fn content_length(response: &Response<Body>) -> Option<u64> {
    let value = response.headers().get(header::CONTENT_LENGTH)?;
    value.to_str().ok()?.trim().parse().ok()
}

/// Holds other processes off until it is dropped, where the file system knows locks.
fn lock(path: &Path) -> Result<File, FetchError> {
    let file = File::create(path).map_err(|reason| file_error(path, reason))?;
    match file.lock() {
        Err(reason) if reason.kind() != io::ErrorKind::Unsupported => Err(file_error(path, reason)),
        _ => Ok(file),
    }
}

fn is_whole(path: &Path, weights: &Published) -> bool {
    path.is_file() && sha256(path).is_ok_and(|found| found.starts_with(weights.sha256))
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    let digest = hasher.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn file_error(path: &Path, reason: io::Error) -> FetchError {
    FetchError::File {
        path: path.into(),
        reason,
    }
}

fn one_line(error: impl ToString) -> String {
    error.to_string().replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::sync::mpsc::{Receiver, channel};
    use std::thread;

    use super::*;

    /// What the server saw: the value of `Range` in each request, or nothing.
    type Ranges = Receiver<Option<String>>;

    /// A server on loopback that answers request i with `answer(i, range start)`.
    fn serve(
        answer: impl Fn(usize, Option<usize>) -> Vec<u8> + Send + 'static,
    ) -> (String, Ranges) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/models/", listener.local_addr().unwrap());
        let (sender, ranges) = channel();
        thread::spawn(move || {
            for (i, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let head = BufReader::new(&stream).lines().map_while(Result::ok);
                let head: Vec<String> = head.take_while(|line| !line.is_empty()).collect();
                let range = head.iter().find_map(|line| {
                    let (name, value) = line.split_once(": ")?;
                    name.eq_ignore_ascii_case("range").then(|| value.to_owned())
                });
                let start = range.as_ref().map(|range| {
                    let start = range.strip_prefix("bytes=").unwrap();
                    start.strip_suffix('-').unwrap().parse().unwrap()
                });
                sender.send(range).ok();
                stream.write_all(&answer(i, start)).ok();
            }
        });
        (address, ranges)
    }

    fn body() -> Vec<u8> {
        (0..200_000_u32)
            .map(|i| (i.wrapping_mul(i) >> 7) as u8)
            .collect()
    }

    fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}Connection: close\r\n\r\n"
        );
        [head.as_bytes(), body].concat()
    }

    fn whole() -> Vec<u8> {
        answer("200 OK", "", &body())
    }

    fn partial(start: usize) -> Vec<u8> {
        let range = format!("Content-Range: bytes {start}-199999/200000\r\n");
        answer("206 Partial Content", &range, &body()[start..])
    }

    // `python -c "import hashlib; print(hashlib.sha256(bytes((i*i%2**32>>7)%256
    // for i in range(200000))).hexdigest()[:8])"`
    const WEIGHTS: Published = torchvision("test", "V1", "test.pth", "15c232e5");

    struct Cache {
        folder: tempfile::TempDir,
        options: Options,
    }

    impl Cache {
        fn new(base_url: String) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let options = Options {
                cache_dir: Some(folder.path().join("deep/cache")),
                base_url: Some(base_url),
            };
            Self { folder, options }
        }

        fn file(&self, name: &str) -> PathBuf {
            self.folder.path().join("deep/cache").join(name)
        }

        fn with_part(self, bytes: &[u8]) -> Self {
            fs::create_dir_all(self.file("")).unwrap();
            fs::write(self.file("test.pth.part"), bytes).unwrap();
            self
        }

        fn fetch(&self) -> Result<PathBuf, FetchError> {
            fetch_published(&WEIGHTS, &self.options, &agent(None), &mut |_, _| {})
        }

        fn assert_fetched(&self) {
            let path = self.fetch().unwrap();
            assert_eq!(path, self.file("test.pth"));
            assert_eq!(fs::read(path).unwrap(), body());
            assert!(!self.file("test.pth.part").exists());
        }
    }

    fn one_line_naming(error: &FetchError, parts: &[&str]) {
        let text = error.to_string();
        assert!(!text.contains('\n'), "{text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }

    #[test]
    fn a_file_is_downloaded_once() {
        let (url, ranges) = serve(|_, _| whole());
        let cache = Cache::new(url);
        let mut seen = Vec::new();
        let progress = &mut |done, total| seen.push((done, total));
        fetch_published(&WEIGHTS, &cache.options, &agent(None), progress).unwrap();
        assert_eq!(seen.first(), Some(&(0, Some(200_000))));
        assert_eq!(seen.last(), Some(&(200_000, Some(200_000))));
        assert!(seen.is_sorted());
        cache.assert_fetched();
        assert_eq!(ranges.try_iter().collect::<Vec<_>>(), [None]);
    }

    #[test]
    fn a_damaged_file_in_the_cache_is_replaced() {
        let (url, _) = serve(|_, _| whole());
        let cache = Cache::new(url);
        fs::create_dir_all(cache.file("")).unwrap();
        fs::write(cache.file("test.pth"), b"half of it").unwrap();
        cache.assert_fetched();
        fs::write(cache.file("resnet18-f37072fd.pth"), b"not it").unwrap();
        assert_eq!(cached("resnet18", &cache.options), None);
    }

    #[test]
    fn a_part_is_resumed() {
        let (url, ranges) = serve(|_, start| partial(start.unwrap()));
        Cache::new(url)
            .with_part(&body()[..70_000])
            .assert_fetched();
        assert_eq!(ranges.recv().unwrap().unwrap(), "bytes=70000-");
    }

    #[test]
    fn a_finished_part_needs_no_server() {
        Cache::new("http://127.0.0.1:9".into())
            .with_part(&body())
            .assert_fetched();
    }

    #[test]
    fn a_server_without_ranges_sends_it_all() {
        let (url, _) = serve(|_, _| whole());
        Cache::new(url)
            .with_part(&body()[..70_000])
            .assert_fetched();
    }

    #[test]
    fn another_range_than_asked_for_starts_over() {
        let (url, ranges) = serve(|_, start| match start {
            Some(_) => partial(0),
            None => whole(),
        });
        Cache::new(url)
            .with_part(&body()[..70_000])
            .assert_fetched();
        assert_eq!(ranges.try_iter().count(), 2);
    }

    #[test]
    fn a_part_longer_than_the_file_starts_over() {
        let (url, _) = serve(|_, start| match start {
            Some(_) => answer("416 Range Not Satisfiable", "", b""),
            None => whole(),
        });
        Cache::new(url).with_part(&[7; 300_000]).assert_fetched();
    }

    #[test]
    fn a_wrong_hash_deletes_the_part() {
        let (url, _) = serve(|i, _| match i {
            0 => answer("200 OK", "", b"<html>log in first</html>"),
            _ => whole(),
        });
        let cache = Cache::new(url);
        let error = cache.fetch().unwrap_err();
        assert!(matches!(error, FetchError::WrongHash { .. }));
        one_line_naming(&error, &["15c232e5", "test.pth", "deleted"]);
        assert!(!cache.file("test.pth.part").exists() && !cache.file("test.pth").exists());
        cache.assert_fetched();
    }

    #[test]
    fn a_cut_connection_keeps_the_part() {
        let (url, ranges) = serve(|_, start| match start {
            None => whole()[..50_000].to_vec(),
            Some(start) => partial(start),
        });
        let cache = Cache::new(url);
        let error = cache.fetch().unwrap_err();
        let FetchError::Interrupted { done, .. } = error else {
            panic!("{error}");
        };
        assert!((49_000..50_000).contains(&done), "{done}");
        one_line_naming(&error, &["test.pth", "run again"]);
        let part = fs::metadata(cache.file("test.pth.part")).unwrap();
        assert_eq!(part.len(), done);
        cache.assert_fetched();
        assert_eq!(
            ranges.try_iter().last().unwrap(),
            Some(format!("bytes={done}-"))
        );
    }

    #[test]
    fn a_body_of_unknown_length_is_accepted() {
        let (url, _) = serve(|_, _| {
            let head: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
            [head, &body()].concat()
        });
        Cache::new(url).assert_fetched();
    }

    #[test]
    fn error_answers_keep_the_part_and_say_what_to_do() {
        for status in [
            "404 Not Found",
            "500 Internal Server Error",
            "403 Forbidden",
        ] {
            let (url, _) = serve(move |_, _| answer(status, "", b"sorry"));
            let cache = Cache::new(url).with_part(&body()[..100]);
            let error = cache.fetch().unwrap_err();
            assert!(matches!(error, FetchError::Status { .. }));
            let path = cache.file("test.pth");
            one_line_naming(
                &error,
                &[&status[..3], "/models/test.pth", path.to_str().unwrap()],
            );
            assert_eq!(
                fs::read(cache.file("test.pth.part")).unwrap(),
                &body()[..100]
            );
        }
    }

    #[test]
    fn without_a_server_the_address_and_the_place_are_named() {
        let closed = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let cache = Cache::new(format!("http://{closed}"));
        let error = cache.fetch().unwrap_err();
        assert!(matches!(error, FetchError::Network { .. }));
        let path = cache.file("test.pth");
        one_line_naming(
            &error,
            &[&format!("http://{closed}/test.pth"), path.to_str().unwrap()],
        );
    }

    #[test]
    fn an_unusable_cache_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let options = Options {
            cache_dir: Some(file.join("cache")),
            base_url: None,
        };
        let error = fetch_published(&WEIGHTS, &options, &agent(None), &mut |_, _| {}).unwrap_err();
        one_line_naming(&error, &[file.join("cache").to_str().unwrap()]);
    }

    #[test]
    fn two_at_once_download_once() {
        let (url, ranges) = serve(|_, _| {
            thread::sleep(Duration::from_millis(200));
            whole()
        });
        let cache = Cache::new(url);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| cache.assert_fetched());
            }
        });
        assert_eq!(ranges.try_iter().count(), 1);
    }

    #[test]
    fn every_published_file_carries_its_hash_in_its_name() {
        for weights in PUBLISHED {
            assert_eq!(
                weights.file,
                format!("{}-{}.pth", weights.name, weights.sha256)
            );
            assert!(weights.sha256.len() >= 8);
        }
    }
}
