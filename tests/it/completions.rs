//! Completes names of images in real shells.

use std::fs;
use std::io::Write as _;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::fixture::{Image, file, oci, tar, write_dir};
use crate::mounted::{Imgmount, Need, have, run, wait, wait_briefly, wait_until};

/// Writes an archive and a layout with images whose only file has the image's name.
fn write_images(imgmount: &Imgmount) {
    let image = |name: &str| {
        let tag = name.rsplit(':').next().unwrap_or(name);
        Image::named(name).layer("COPY", &[file(format!("file-{tag}"), b"")])
    };
    let images = ["example.com/app:one", "example.com/app:two", "web:three"].map(image);
    write_dir(&oci(&images[..2]), &imgmount.dir().join("layout"));
    imgmount.write("a.tar", &tar(&oci(&images[2..])));
}

fn offered(imgmount: &Imgmount, word: &str) -> Vec<String> {
    let run = imgmount.run(&["complete", "--", word]).expect(0);
    assert_eq!(run.stderr, "", "a shell would show this");
    run.lines().into_iter().map(str::to_owned).collect()
}

#[test]
fn c42_names_that_begin_with_a_word_are_offered() {
    let imgmount = Imgmount::new();
    write_images(&imgmount);
    let app = |place: &str, tags: &[&str]| -> Vec<String> {
        tags.iter().map(|tag| format!("{place}example.com/app:{tag}")).collect()
    };
    for (word, names) in [
        ("layout:", app("layout:", &["one", "two"])),
        ("layout:ex", app("layout:", &["one", "two"])),
        ("oci:layout:example.com/app:t", app("oci:layout:", &["two"])),
        ("oci://layout:example.com/app:t", app("oci://layout:", &["two"])),
        ("a.tar:", vec!["a.tar:web:three".to_owned()]),
        ("a.tar:web:three:/etc", vec![]),
        ("a.tar:other", vec![]),
        ("a.tar", vec![]),
        ("lay", vec![]),
        ("none:", vec![]),
        ("registry-storage:./none:", vec![]),
        ("-", vec![]),
        ("-:", vec![]),
        ("", vec![]),
    ] {
        assert_eq!(offered(&imgmount, word), names, "{word}");
    }
}

/// bash puts an offered name into the command line as it is: `$(touch x)` would be run.
#[test]
fn c42_a_name_that_a_shell_would_interpret_is_not_offered() {
    let imgmount = Imgmount::new();
    let names =
        ["a:1", "$(touch x)", "`id`", "a b", "a;b", "a\nb", "a'b", "caf\u{e9}", "a*", "~a", "\u{1b}[1m"];
    let image = names.iter().fold(Image::named("b:1"), |image, name| image.also_named(name));
    imgmount.write("a.tar", &tar(&crate::fixture::docker_legacy(&[image.layer("X", &[file("f", b"")])])));
    assert_eq!(offered(&imgmount, "a.tar:"), ["a.tar:a:1", "a.tar:b:1"]);
}

/// An interactive shell on a terminal.
struct Shell {
    child: Child,
    keys: ChildStdin,
    screen: std::path::PathBuf,
}

impl Shell {
    /// Starts a shell whose prompt is `READY>`.
    fn start(imgmount: &Imgmount, shell: &str) -> Self {
        let screen = imgmount.dir().join("screen");
        // Sets PATH, so that the shell finds the program.
        let path = imgmount.shell_with_program("printf %s \"$PATH\"");
        let path = run(&mut { path }).expect(0).text().to_owned();
        let mut command = Command::new("script");
        command.args(["-qefc", shell]).arg(&screen).current_dir(imgmount.dir());
        command
            .env("PATH", path)
            .env("TERM", "dumb")
            .env("ZDOTDIR", imgmount.dir())
            .env("HOME", imgmount.dir());
        command.env("IMGMOUNT_CACHE_DIR", imgmount.cache());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let keys = child.stdin.take().unwrap();
        let shell = Shell { child, keys, screen };
        assert!(shell.shows("READY>"), "{}", shell.text());
        shell
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.screen).unwrap_or_default()).into_owned()
    }

    /// Waits until the terminal shows `part`.
    fn shows(&self, part: &str) -> bool {
        wait_until(|| self.text().contains(part))
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // This may run during a panic, so failures are ignored.
        let _ = self.keys.write_all(b"\nexit\n");
        if wait(&mut self.child).is_none() {
            let _ = self.child.kill();
        }
    }
}

/// Types the beginning of a name and TAB, and runs the completed command.
fn completes(imgmount: &Imgmount, shell: &str) {
    let mut shell = Shell::start(imgmount, shell);
    for (begun, file) in [
        ("imgmount ls a.tar:\t\n", "file-three"),
        ("imgmount ls layout:example.com/app:o\t\n", "file-one"),
        ("imgmount ls oci:layout:example.com/app:tw\t\n", "file-two"),
        // Commands and options are completed as before.
        ("imgmount insp\t --js\t a.tar\n", "\"config_digest\""),
    ] {
        // A shell that is not yet ready to edit a line takes TAB as a character; then the line is typed again.
        let typed = (0..10).any(|_| {
            shell.press(begun);
            wait_briefly(|| shell.text().contains(file))
        });
        assert!(typed, "{begun:?}: {}", shell.text());
    }
}

#[test]
fn c42_bash_completes_names() {
    if !have(&[Need::Program("bash"), Need::Program("script")]) {
        return;
    }
    let imgmount = Imgmount::new();
    write_images(&imgmount);
    let script = imgmount.run(&["completions", "bash"]).expect(0);
    imgmount.write("rc", &[script.stdout.as_slice(), b"\nPS1='READY>'\n"].concat());
    completes(&imgmount, "bash --noprofile --rcfile rc -i");
}

#[test]
fn c42_zsh_completes_names() {
    if !have(&[Need::Program("zsh"), Need::Program("script")]) {
        return;
    }
    let imgmount = Imgmount::new();
    write_images(&imgmount);
    let script = imgmount.run(&["completions", "zsh"]).expect(0);
    let before = b"autoload -Uz compinit\ncompinit -u -D\n";
    imgmount.write(".zshrc", &[&before[..], &script.stdout, b"\nPS1='READY>'\n"].concat());
    completes(&imgmount, "zsh -d -i");
    // As packages install it: a file that zsh loads as a function.
    fs::create_dir(imgmount.dir().join("functions")).unwrap();
    imgmount.write("functions/_imgmount", &script.stdout);
    imgmount.write(".zshrc", b"fpath=($PWD/functions)\nfpath+=(/usr/share/zsh/functions/*(/))\nautoload -Uz compinit\ncompinit -u -D\nPS1='READY>'\n");
    completes(&imgmount, "zsh -d -i");
}

#[test]
fn c42_fish_completes_names() {
    if !have(&[Need::Program("fish")]) {
        return;
    }
    let imgmount = Imgmount::new();
    write_images(&imgmount);
    for (line, expected) in [
        ("imgmount ls a.tar:w", "a.tar:web:three"),
        ("imgmount ls layout:example.com/app:o", "layout:example.com/app:one"),
        ("imgmount insp", "inspect"),
    ] {
        let script = format!("fish -c 'imgmount completions fish | source; complete -C \"{line}\"'");
        let mut command = imgmount.shell_with_program(&script);
        let offered = run(command.env("HOME", imgmount.dir())).expect(0);
        let offered: Vec<&str> =
            offered.lines().iter().map(|line| line.split('\t').next().unwrap()).collect();
        assert_eq!(offered, [expected], "{line}");
    }
}
