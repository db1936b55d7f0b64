//! An S3 server that checks signatures: s3s-fs in this process, or the one that
//! `S3_TEST_ENDPOINT` names.
//!
//! In-process it listens on 127.0.0.1, keeps its objects in a temporary directory, logs every
//! request (refused ones too), and can be stopped and started again on the same port. An external
//! one is looked into through signed requests. Tests see keys without the prefix; every server,
//! external ones above all, gets a prefix of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use go_cache_plugin::config::AwsEnv;
use go_cache_plugin::metrics::Metrics;
use go_cache_plugin::remote::{ObjectInfo, PutBody, Remote, S3, Site};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::sync::oneshot;

/// One request as the server saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// GET, HEAD, PUT, DELETE.
    pub method: String,
    /// Path and query as sent.
    pub path: String,
}

/// A bucket to test with.
pub struct S3Server {
    /// `http://127.0.0.1:port`, or what `S3_TEST_ENDPOINT` says.
    pub endpoint: String,
    /// A bucket that exists.
    pub bucket: String,
    /// The key id that may do everything.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// The prefix that this test's objects live under.
    pub prefix: String,
    local: Option<Local>,
}

/// The in-process half.
struct Local {
    root: PathBuf,
    addr: SocketAddr,
    state: Arc<State>,
    service: S3Service,
    running: Option<Running>,
}

#[derive(Default)]
struct State {
    requests: Mutex<Vec<Seen>>,
    connections: AtomicU64,
}

struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl S3Server {
    /// Starts a server with an empty bucket, or connects to the one in the environment.
    pub fn start() -> Self {
        Self::outside().unwrap_or_else(Self::in_process)
    }

    /// Connects to the server in the environment.
    pub fn outside() -> Option<Self> {
        std::env::var("S3_TEST_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty()).map(Self::external)
    }

    /// Starts a server in this process whatever the environment says: for tests that stop it,
    /// break its objects on disk, or count its requests.
    pub fn in_process() -> Self {
        let root = std::env::temp_dir().join(format!("gocache-s3-{}", unique()));
        let bucket = "cache-bucket".to_string();
        fs::create_dir_all(root.join(&bucket)).expect("a directory for the bucket");
        let (access_key, secret_key) = ("AKTESTACCESSKEY".to_string(), "test/secret+key".to_string());
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(&root).expect("an S3 root"));
        builder.set_auth(SimpleAuth::from_single(access_key.clone(), secret_key.clone()));
        let mut local = Local {
            root,
            addr: "127.0.0.1:0".parse().expect("an address"),
            state: Arc::default(),
            service: builder.build(),
            running: None,
        };
        local.run();
        let endpoint = format!("http://{}", local.addr);
        S3Server { endpoint, bucket, access_key, secret_key, prefix: "pre/fix".into(), local: Some(local) }
    }

    fn external(endpoint: String) -> Self {
        let var = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("S3_TEST_ENDPOINT needs {name} as well"));
        S3Server {
            endpoint,
            bucket: std::env::var("S3_TEST_BUCKET").unwrap_or_else(|_| "go-cache-plugin-test".into()),
            access_key: var("AWS_ACCESS_KEY_ID"),
            secret_key: var("AWS_SECRET_ACCESS_KEY"),
            prefix: format!("test-{}", unique()),
            local: None,
        }
    }

    /// Variables for a child process that is to use this bucket.
    pub fn env(&self) -> Vec<(String, String)> {
        [
            ("AWS_ACCESS_KEY_ID", &*self.access_key),
            ("AWS_SECRET_ACCESS_KEY", &*self.secret_key),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("GOCACHE_S3_BUCKET", &*self.bucket),
            ("GOCACHE_S3_REGION", "us-east-1"),
            ("GOCACHE_S3_ENDPOINT_URL", &*self.endpoint),
            ("GOCACHE_S3_PATH_STYLE", "true"),
            ("GOCACHE_KEY_PREFIX", &*self.prefix),
        ]
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .to_vec()
    }

    /// The variables of [`Self::env`], but through `endpoint`, say a [`super::fault::FaultProxy`].
    pub fn env_through(&self, endpoint: &str) -> Vec<(String, String)> {
        let mut env = self.env();
        for (name, value) in &mut env {
            if name == "GOCACHE_S3_ENDPOINT_URL" {
                *value = endpoint.to_string();
            }
        }
        env
    }

    /// A client of the library for this bucket, through `endpoint`.
    pub fn client(&self, endpoint: &str, metrics: Arc<Metrics>) -> S3 {
        let vars = self.env().into_iter().filter(|(name, _)| name.starts_with("AWS_")).collect();
        let (endpoint, region) = (endpoint.parse().expect("an endpoint"), "us-east-1".parse().expect("a region"));
        let site = Site { endpoint: Some(endpoint), region: Some(region), path_style: true };
        let bucket = self.bucket.parse().expect("a name");
        S3::new(&bucket, &site, &AwsEnv { vars }, metrics).expect("a good address")
    }

    /// Every object below the prefix: its key without the prefix, and its length.
    pub fn objects(&self) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        match &self.local {
            Some(_) => walk(&self.dir(), "", &mut found),
            None => {
                let below = format!("{}/", self.prefix);
                let mut each = |o: ObjectInfo| found.extend([(o.key[below.len()..].to_string(), o.len)]);
                let (server, mut from) = (self.directly(), None);
                loop {
                    from = server.list(&below, from.as_deref(), &mut each).expect("a listing");
                    if from.is_none() {
                        break;
                    }
                }
            }
        }
        found
    }

    /// The keys of every object below the prefix, without it, sorted.
    pub fn keys(&self) -> Vec<String> {
        self.objects().into_keys().collect()
    }

    /// The bytes of an object.
    pub fn read(&self, key: &str) -> Option<Vec<u8>> {
        if self.local.is_some() {
            return fs::read(self.dir().join(key)).ok();
        }
        let mut object = self.directly().get(&self.full(key)).expect("an answer")?;
        let mut bytes = Vec::new();
        object.body.read_to_end(&mut bytes).expect("the whole body");
        Some(bytes)
    }

    /// Replaces an object's bytes, behind the server's back where it is ours.
    pub fn write(&self, key: &str, bytes: &[u8]) {
        if self.local.is_none() {
            return self.directly().put(&self.full(key), &PutBody::Bytes(bytes.into()), None, None).expect("a put");
        }
        let path = self.dir().join(key);
        fs::create_dir_all(path.parent().expect("a key lies in the bucket")).expect("a directory for the object");
        fs::write(path, bytes).expect("writing the object");
        self.forget(key);
    }

    /// Removes an object, behind the server's back where it is ours.
    pub fn delete(&self, key: &str) {
        if self.local.is_none() {
            return self.directly().delete(&self.full(key)).expect("a delete");
        }
        fs::remove_file(self.dir().join(key)).expect("removing the object");
        self.forget(key);
    }

    /// The file of an object, to tell its age by, or to change it.
    pub fn file(&self, key: &str) -> PathBuf {
        self.dir().join(key)
    }

    fn directly(&self) -> S3 {
        self.client(&self.endpoint, Arc::default())
    }

    fn full(&self, key: &str) -> String {
        format!("{}/{key}", self.prefix)
    }

    /// What was asked of the server so far, refused requests included.
    pub fn requests(&self) -> Vec<Seen> {
        self.local().state.requests.lock().unwrap().clone()
    }

    /// How many requests with this method (all with an empty one) were asked so far.
    pub fn count(&self, method: &str) -> usize {
        self.requests().iter().filter(|s| method.is_empty() || s.method == method).count()
    }

    /// Forgets the requests seen so far.
    pub fn clear_log(&self) {
        self.local().state.requests.lock().unwrap().clear();
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.local().state.connections.load(Ordering::SeqCst)
    }

    /// The directory that holds the server's buckets.
    pub fn root(&self) -> &Path {
        &self.local().root
    }

    /// Stops the server: connections are closed, new ones refused.
    pub fn stop(&mut self) {
        self.local_mut().stop();
    }

    /// Starts the server again, on the same port and the same objects.
    pub fn restart(&mut self) {
        self.local_mut().stop();
        self.local_mut().run();
    }

    fn local(&self) -> &Local {
        self.local.as_ref().expect("this test needs the server in its own process: use S3Server::in_process")
    }

    fn local_mut(&mut self) -> &mut Local {
        self.local.as_mut().expect("this test needs the server in its own process: use S3Server::in_process")
    }

    fn dir(&self) -> PathBuf {
        self.local().root.join(&self.bucket).join(&self.prefix)
    }

    /// Removes what s3s-fs remembers of an object (its entity tag) beside the bucket.
    fn forget(&self, key: &str) {
        let b64 = |s: &str| base64_simd::URL_SAFE_NO_PAD.encode_to_string(s);
        let name =
            format!(".bucket-{}.object-{}.internal.json", b64(&self.bucket), b64(&format!("{}/{key}", self.prefix)));
        let _ = fs::remove_file(self.local().root.join(name));
    }
}

impl Local {
    fn run(&mut self) {
        let listener = std::net::TcpListener::bind(self.addr).expect("binding the S3 server's port");
        listener.set_nonblocking(true).expect("a non-blocking listener");
        self.addr = listener.local_addr().expect("the port bound");
        let (stop, mut stopped) = oneshot::channel::<()>();
        let (service, state) = (self.service.clone(), self.state.clone());
        let (ready, is_ready) = mpsc::channel();
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime for the S3 server");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                ready.send(()).expect("the test waits for this");
                loop {
                    tokio::select! {
                        _ = &mut stopped => break,
                        accepted = listener.accept() => {
                            let Ok((socket, _)) = accepted else { continue };
                            let _ = socket.set_nodelay(true);
                            state.connections.fetch_add(1, Ordering::SeqCst);
                            tokio::spawn(serve_one(socket, service.clone(), state.clone()));
                        }
                    }
                }
            });
            // ends every connection
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("s3-server".into()).spawn(serve).expect("a thread");
        is_ready.recv().expect("the S3 server starts");
        self.running = Some(Running { stop, thread });
    }

    fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = running.stop.send(());
            running.thread.join().expect("the S3 server ends");
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.root);
    }
}

async fn serve_one(socket: tokio::net::TcpStream, service: S3Service, state: Arc<State>) {
    let logged = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let path = request.uri().path_and_query().map_or("", |p| p.as_str()).to_string();
        state.requests.lock().unwrap().push(Seen { method: request.method().to_string(), path });
        let service = service.clone();
        async move { service.call(request.map(s3s::Body::from)).await }
    });
    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), logged).await;
}

fn walk(dir: &Path, below: &str, found: &mut BTreeMap<String, u64>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        match entry.metadata() {
            Ok(m) if m.is_dir() => walk(&entry.path(), &format!("{name}/"), found),
            Ok(m) => {
                found.insert(name, m.len());
            }
            Err(_) => {}
        }
    }
}

/// A name that no other test of this or another process has.
fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{}-{}-{nanos:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
