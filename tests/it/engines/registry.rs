//! Starts registries (docker-registry of CNCF Distribution) with their own ports and storage.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::mounted::{Imgmount, find_program, run, wait, wait_until};

/// A registry on a port of this host, stopped on drop.
pub(crate) struct Registry {
    pub(crate) dir: PathBuf,
    pub(crate) port: u16,
    /// Lines of the configuration: of `http`, and of other parts.
    settings: [String; 2],
    server: Option<Child>,
}

impl Registry {
    /// Starts a registry with its storage in `registry` below the test's directory.
    pub(crate) fn start(imgmount: &Imgmount) -> Self {
        Registry::start_with(imgmount, "", "")
    }

    /// Starts a registry with further lines in the part `http` of its configuration, and after it.
    pub(crate) fn start_with(imgmount: &Imgmount, http: &str, parts: &str) -> Self {
        Registry::named(imgmount, "registry", http, parts)
    }

    /// As [`Registry::start_with`], with its storage in `name` below the test's directory.
    pub(crate) fn named(imgmount: &Imgmount, name: &str, http: &str, parts: &str) -> Self {
        let dir = imgmount.dir().join(name);
        fs::create_dir(&dir).unwrap();
        let settings = [http, parts].map(str::to_owned);
        let mut registry = Registry { dir, port: 0, settings, server: None };
        // Another process can take the free port before the registry does.
        for _ in 0..10 {
            registry.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            registry.serve();
            let mut answers = false;
            wait_until(|| {
                answers = TcpStream::connect(("127.0.0.1", registry.port)).is_ok();
                answers || registry.server.as_mut().unwrap().try_wait().unwrap().is_some()
            });
            if answers && registry.server.as_mut().unwrap().try_wait().unwrap().is_none() {
                return registry;
            }
        }
        panic!("no registry: {}", registry.log());
    }

    fn serve(&mut self) {
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
             http:\n  addr: 127.0.0.1:{}\n{}{}",
            self.dir.display(),
            self.port,
            self.settings[0],
            self.settings[1]
        );
        fs::write(self.config(), config).unwrap();
        let log = fs::File::create(self.dir.with_extension("log")).unwrap();
        let mut command = Command::new(find_program("docker-registry").unwrap());
        command.arg("serve").arg(self.config()).stdin(Stdio::null());
        self.server = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    fn config(&self) -> PathBuf {
        self.dir.with_extension("yml")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.with_extension("log")).unwrap()
    }

    /// Returns the requests so far, each with its status: `GET /v2/app/manifests/1 200`.
    pub(crate) fn requests(&self) -> Vec<String> {
        let request = |line: &str| {
            let (_, rest) = line.split_once("] \"")?;
            let (request, rest) = rest.split_once(" HTTP/1.1\" ")?;
            Some(format!("{request} {}", rest.split(' ').next()?))
        };
        self.log().lines().filter_map(request).collect()
    }

    /// Returns whether the storage has the blob with this digest, in hexadecimal digits.
    pub(crate) fn holds(&self, hex: &str) -> bool {
        let blob = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
        self.dir.join(blob).is_file()
    }

    /// Returns host and port.
    pub(crate) fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// Copies `source` to the repository and tag `name`. Returns the digest of the manifest.
    #[track_caller]
    pub(crate) fn push(&self, imgmount: &Imgmount, source: &str, name: &str, options: &[&str]) -> String {
        let digest = imgmount.dir().join("digest");
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]).args(options);
        command.arg("--digestfile").arg(&digest).arg(source).current_dir(imgmount.dir());
        run(command.arg(format!("docker://127.0.0.1:{}/{name}", self.port))).expect(0);
        fs::read_to_string(digest).unwrap().trim().to_owned()
    }

    /// Deletes blobs that no manifest needs, as operators do. The registry must not run.
    pub(crate) fn collect_garbage(&self) {
        let mut command = Command::new(find_program("docker-registry").unwrap());
        run(command.args(["garbage-collect", "--delete-untagged"]).arg(self.config())).expect(0);
    }

    pub(crate) fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        let pid = rustix::process::Pid::from_child(&server);
        let told = rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok();
        if !told || wait(&mut server).is_none() {
            // This may run during a panic, so failures are ignored.
            let _ = server.kill();
        }
    }

    /// Returns the reference to an image of the storage.
    pub(crate) fn reference(&self, name: &str) -> String {
        format!("registry-storage:{}:{name}", self.dir.display())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}
