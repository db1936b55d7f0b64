//! The command line and the environment: the only reader of both.
//!
//! Two stages. The pre-pass (`argv`) turns Go's spelling into argh's, driven by the one table of
//! flags (`flags`); argh fills its structs; a flag then wins over its variable, a variable over the
//! default; and `resolve` makes the validated [`Invocation`](crate::config::Invocation). Parsing
//! has no side effects; it reads nothing but the key files, and resolves a host name in
//! `--http`.

mod argv;
mod flags;
mod resolve;
mod value;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use argh::FromArgs;

pub(crate) use flags::{FLAGS, Flag, Mode, Section};

use crate::config::Invocation;
use crate::error::Error;

/// The program's name in messages.
pub const PROGRAM: &str = "go-cache-plugin";

/// The environment by name.
pub type Environment = BTreeMap<OsString, OsString>;

/// Makes an invocation of `args` (without the program's name), the variables in `env`, and the
/// working directory `cwd`. Every error is a usage error of one line.
pub fn parse(args: &[OsString], env: &Environment, cwd: &Path) -> Result<Invocation, Error> {
    let line = argv::tidy(args)?;
    if line.help {
        return Ok(Invocation::Help(line.mode.name().map(str::to_string)));
    }
    let words: Vec<&str> = line.argv.iter().map(String::as_str).collect();
    let args = flags::Args::from_args(&[PROGRAM], &words).expect("the pre-pass lets known flags alone through");
    let values = flags::Values::merge(&args, env, line.mode)?;
    let flags = line.argv.chunks(2).flat_map(|flag| written(&flag[0], &flag[1])).collect();
    resolve::invocation(line.mode, line.word, values, line.command, flags, env, cwd)
}

/// A flag as people write it: what is on has no value, and a value that may be given again stands in each of its flags.
fn written(name: &str, values: &str) -> Vec<OsString> {
    let flag = Flag::named(name.trim_start_matches('-')).expect("the pre-pass knows it");
    let bare = flag.value.is_none() && values == "true";
    let value = |value| if bare { String::new() } else { format!("={value}") };
    values.split('\0').map(|v| (flag.spelling() + &value(v)).into()).collect()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::config::{
        BucketConfig, BucketLocation, Config, ConnectAddr, Layout, PluginAddr, RunConfig, ServeConfig, Version,
    };

    fn with(args: &[&str], env: &[(&str, &str)]) -> Result<Invocation, Error> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let mut all: Environment = [("HOME".into(), "/home/u".into())].into();
        all.extend(env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))));
        parse(&args, &all, Path::new("/cwd"))
    }

    fn direct(args: &[&str], env: &[(&str, &str)]) -> Config {
        match with(args, env) {
            Ok(Invocation::Direct(config)) => config,
            other => panic!("{args:?}: {other:?}"),
        }
    }

    fn serve(args: &[&str], env: &[(&str, &str)]) -> ServeConfig {
        match with(args, env) {
            Ok(Invocation::Serve(config)) => config,
            other => panic!("{args:?}: {other:?}"),
        }
    }

    fn run(args: &[&str], env: &[(&str, &str)]) -> RunConfig {
        match with(args, env) {
            Ok(Invocation::Run(config)) => config,
            other => panic!("{args:?}: {other:?}"),
        }
    }

    fn bucket(args: &[&str]) -> BucketConfig {
        direct(args, &[]).bucket.expect("a bucket was given")
    }

    fn error(args: &[&str], env: &[(&str, &str)]) -> String {
        match with(args, env) {
            Err(e) if e.exit() == crate::error::ExitCode::from(2) => {
                assert!(!e.to_string().contains('\n'), "one line: {e:?}");
                e.to_string()
            }
            other => panic!("{args:?}: {other:?}"),
        }
    }

    #[test]
    fn invocations_of_the_original_program_work() {
        let config = direct(&["--cache-dir=/tmp/gocache", "--bucket=some-s3-bucket"], &[]);
        assert_eq!(config.cache_dir, PathBuf::from("/tmp/gocache"));
        assert!(config.bucket.is_some());

        let common = ["serve", "--plugin=5930", "--cache-dir=/tmp/gocache", "--bucket=some-s3-bucket"];
        let config = serve(&common, &[]);
        assert_eq!(config.plugin, PluginAddr::Port(5930));
        assert!(config.http.is_none());

        match with(&["connect", "5930"], &[]) {
            Ok(Invocation::Connect(c)) => assert_eq!(c.addr, ConnectAddr::Tcp("127.0.0.1".into(), 5930)),
            other => panic!("{other:?}"),
        }

        let config =
            serve(&["serve", "--plugin=5930", "--http=localhost:5970", "--modproxy", "--cache-dir=/tmp/gocache"], &[]);
        let http = config.http.expect("--http was given");
        assert_eq!(http.addr, SocketAddr::from(([127, 0, 0, 1], 5970)));
        let modproxy = http.mod_proxy.expect("--modproxy was given");
        assert_eq!(modproxy.sumdb, ["sum.golang.org".parse().unwrap()]);
        assert_eq!(modproxy.upstream, "https://proxy.golang.org".parse().unwrap());
        assert_eq!(modproxy.netrc, Some(PathBuf::from("/home/u/.netrc")));
    }

    #[test]
    fn every_flag_of_the_table_is_taken_by_its_commands() {
        for flag in FLAGS {
            let value = match (flag.name, flag.value) {
                ("s3-layout", _) => "classic",
                ("bucket", _) => "some",
                ("cache-dir" | "summary", _) => "/c",
                ("s3-endpoint-url" | "upstream", _) => "http://h",
                ("ca-domains", _) => "h",
                ("sumdb", _) => "sum.golang.org",
                ("mod-verify", _) => "off",
                ("http", _) => "127.0.0.1:0",
                ("signing-key-file" | "verify-key-file", _) => continue, // they must be there
                ("http-tls-cert" | "http-tls-key", _) => continue,       // they need each other
                (_, None) => "false",
                (_, Some("DURATION")) => "0",
                (_, Some("SIZE")) => "5MiB",
                _ => "1",
            };
            let arg = format!("{}={value}", flag.spelling());
            let base = match flag.modes.first() {
                Some(Mode::Serve) => &["serve", "--plugin=1", "--http=127.0.0.1:0", "--modproxy", "--revproxy=h"][..],
                Some(Mode::Prune) => &["prune", "--bucket=some", "--expiry=1h"],
                Some(Mode::Push) => &["push", "--bucket=some"],
                Some(Mode::Settle) => &["settle"],
                Some(Mode::Clear | Mode::Keygen | Mode::Run | Mode::Version) => continue,
                Some(Mode::Mod) => &["mod", "list"],
                Some(Mode::Connect) => &["connect", "1"],
                _ => &["--bucket=some"],
            };
            let args: Vec<&str> = base.iter().copied().chain([arg.as_str()]).collect();
            with(&args, &[]).unwrap_or_else(|e| panic!("{arg}: {e}"));
            if flag.modes.is_empty() {
                with(base, &[(flag.variable, value)]).unwrap_or_else(|e| panic!("{}: {e}", flag.variable));
            }
        }
    }

    #[test]
    fn a_flag_wins_over_its_variable_and_that_over_the_default() {
        assert_eq!(direct(&[], &[]).compression_level, 1);
        let env = [("GOCACHE_COMPRESSION_LEVEL", "3"), ("GOCACHE_S3_BUCKET", "some")];
        assert_eq!(direct(&[], &env).compression_level, 3);
        assert_eq!(direct(&["--compression-level=5"], &env).compression_level, 5);
        assert!(direct(&[], &[("GOCACHE_VERBOSE", "T")]).verbose);
        assert!(!direct(&["-v=false"], &[("GOCACHE_VERBOSE", "1")]).verbose);
        assert!(direct(&["--bucket="], &[("GOCACHE_S3_BUCKET", "some")]).bucket.is_none());
        // an empty variable is none, and names that are not ours are ignored
        let config =
            direct(&[], &[("GOCACHE_VERBOSE", ""), ("GOCACHE", "/x"), ("GOCACHEPROG", "y"), ("GOCACHE_X", "z")]);
        assert_eq!(config.cache_dir, PathBuf::from("/home/u/.cache/go-cache-plugin"));
        // so is a broken variable of another command
        direct(&[], &[("GOCACHE_PLUGIN", "nonsense"), ("GOCACHE_MODPROXY", "1")]);
    }

    #[test]
    fn short_flags_lead() {
        let config = direct(&["-v", "-c", "4", "-u", "6", "--bucket=some"], &[]);
        assert!(config.verbose);
        assert_eq!((config.concurrency, config.upload_concurrency), (4, 6));
        assert_eq!(direct(&["-u=0", "--bucket=some"], &[]).upload_concurrency, 16);
    }

    #[test]
    fn the_cache_directory_is_absolute() {
        let served = serve(&["serve", "--plugin=1"], &[("GOCACHE_DIR", "a/b")]);
        assert_eq!(served.cache.cache_dir, PathBuf::from("/cwd/a/b"));
        assert_eq!(direct(&[], &[("XDG_CACHE_HOME", "/x")]).cache_dir, PathBuf::from("/x/go-cache-plugin"));
        // the XDG rules: a relative one is ignored
        let config = direct(&[], &[("XDG_CACHE_HOME", "x")]);
        assert_eq!(config.cache_dir, PathBuf::from("/home/u/.cache/go-cache-plugin"));
        let homeless = parse(&[], &Environment::new(), Path::new("/"));
        assert!(homeless.is_err_and(|e| e.to_string().contains("give --cache-dir")));
    }

    #[test]
    fn durations_and_sizes() {
        let some = [("GOCACHE_S3_BUCKET", "some"), ("GOCACHE_PENDING_EXPIRY", "1h")];
        let config =
            direct(&["--expiry=36h", "--close-timeout=0", "--max-cache-size=10GB", "--min-upload-size", "100"], &some);
        assert_eq!(config.expiry, Some(Duration::from_secs(36 * 3600)));
        assert_eq!(config.close_timeout, Duration::ZERO);
        assert_eq!(config.max_size, Some(10_000_000_000));
        assert_eq!(config.min_upload_size, 100);
        assert!(config.expiry_given);
        let (default, never) = (direct(&[], &[]), direct(&["--expiry=0", "--pending-expiry=0"], &some));
        assert_eq!((default.expiry, default.expiry_given), (Some(Duration::from_secs(336 * 3600)), false));
        assert_eq!((never.expiry, never.expiry_given), (None, true));
        assert_eq!((default.pending_expiry.as_secs(), never.pending_expiry), (168 * 3600, value::LONGEST));
        assert_eq!(direct(&[], &some).pending_expiry.as_secs(), 3600);
        assert_eq!(direct(&["--expiry=1d12h"], &[]).expiry, config.expiry);
    }

    #[test]
    fn buckets() {
        let b = bucket(&["--bucket=file:///srv/x", "--prefix=/a//b/", "--s3-layout=classic", "--write-prefix=pr/7"]);
        assert_eq!(b.location, BucketLocation::Dir(PathBuf::from("/srv/x")));
        assert_eq!((b.prefix.as_str(), b.layout), ("a/b", Layout::Classic));
        assert_eq!(b.write_prefix, Some("pr/7".parse().unwrap()));
        let env = [
            ("GOCACHE_S3_BUCKET", "s3://some"),
            ("GOCACHE_S3_REGION", "eu-west-1"),
            ("AWS_PROFILE", "p"),
            ("AWS_REGION", "no region"),
            ("HTTPS_PROXY", "p"),
            ("http_proxy", "q"),
            ("No_Proxy", "r"),
            ("SSL_CERT_FILE", "/s"),
            ("X", "y"),
        ];
        let config = direct(&["--s3-endpoint-url=http://127.0.0.1:9000/", "--s3-path-style"], &env);
        match config.bucket.expect("the variable gives one").location {
            BucketLocation::S3 { bucket, region, endpoint, path_style, aws } => {
                assert_eq!(bucket.as_str(), "some");
                assert_eq!(region, Some("eu-west-1".parse().unwrap()));
                assert_eq!(endpoint, Some("http://127.0.0.1:9000".parse().unwrap()));
                assert_eq!(path_style, Some(true));
                assert_eq!(
                    aws.vars.keys().collect::<Vec<_>>(),
                    ["AWS_PROFILE", "AWS_REGION", "HOME", "HTTPS_PROXY", "SSL_CERT_FILE", "http_proxy"]
                );
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_prefix_in_the_url_is_that_of_the_flag() {
        for (args, env, want) in [
            (&["--bucket=s3://some/a//b/"][..], &[][..], "a/b"),
            (&["--bucket=s3://some/", "--prefix=p"], &[], "p"),
            (&["--bucket=s3://some/p", "--prefix=/p/"], &[], "p"),
            (&[], &[("GOCACHE_S3_BUCKET", "s3://some/a"), ("GOCACHE_WRITE_PREFIX", "b")], "a"),
            (&["--bucket=file://$HOME/x"], &[("GOCACHE_KEY_PREFIX", "p")], "p"),
        ] {
            let bucket = direct(args, env).bucket.expect("a bucket was given");
            assert_eq!(bucket.prefix.as_str(), want, "{args:?}");
        }
        assert_eq!(bucket(&["--bucket=file://~/x"]).location, BucketLocation::Dir("/home/u/x".into()));
    }

    #[test]
    fn what_is_said_of_no_bucket_is_an_error_or_void() {
        const VOID: &[(&str, &str)] =
            &[("GOCACHE_S3_REGION", "r"), ("GOCACHE_SIGNING_KEY_FILE", "/nonexistent"), ("GOCACHE_READ_ONLY", "true")];
        for flag in FLAGS.iter().filter(|flag| flag.needs_bucket()) {
            let arg = format!("{}=1", flag.spelling());
            assert!(error(&[&arg], &[]).starts_with(&format!("{} needs a bucket", flag.spelling())), "{arg}");
        }
        let note = |args: &[&str], env: &[(&str, &str)]| {
            let config = direct(args, env);
            assert!(config.bucket.is_none());
            config.note.unwrap_or_default()
        };
        for quiet in [&[][..], &["--read-only=false"], &["--prefix="], &["--scope=s"], &["--close-timeout=0"]] {
            assert_eq!(note(quiet, &[]), "");
        }
        // switched off on purpose
        assert_eq!(note(&["--bucket=", "--prefix=p"], &[("GOCACHE_S3_BUCKET", "some"), VOID[0]]), "");
        let lost = [("GOCACHE_S3_BUCKET", "")];
        assert_eq!(note(&[], &lost), "GOCACHE_S3_BUCKET is empty: the cache is local");
        assert_eq!(note(&["--prefix=p"], &lost), "GOCACHE_S3_BUCKET is empty: the cache is local; of no use: --prefix");
        assert_eq!(note(&["--bucket="], &[]), "--bucket names none: the cache is local");
        assert_eq!(
            note(&["-u=2"], VOID),
            "GOCACHE_S3_BUCKET is not set: the cache is local; of no use: GOCACHE_S3_REGION, GOCACHE_READ_ONLY, \
             GOCACHE_SIGNING_KEY_FILE, -u"
        );
        for args in [&["push"][..], &["prune", "--bucket", "--expiry=1d"], &["status", "--bucket"]] {
            assert!(error(args, VOID).contains("GOCACHE_S3_BUCKET"), "{args:?}");
        }
    }

    #[test]
    fn key_files_are_read_and_checked() {
        let dir = std::env::temp_dir().join(format!("go-cache-plugin-key-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("temporary directory");
        let file = |name: &str, text: &str| {
            std::fs::write(dir.join(name), text).expect("writable");
            dir.join(name).display().to_string()
        };
        let pairs = [(); 2].map(|()| crate::sign::generate().expect("random numbers"));
        let (key, first) = (file("key", &pairs[0].0), file("key.pub", &pairs[0].1));
        let (second, old) = (file("second.pub", &pairs[1].1), file("old", "0123456789abcdef\n"));
        let signs = format!("--signing-key-file={key}");
        let verify = |file: &str| format!("--verify-key-file={file}");
        let signer = |args: &[&str], env: &[(&str, &str)]| {
            let args = [&["--bucket=some"], args].concat();
            let b = direct(&args, env).bucket.expect("a bucket was given");
            (format!("{:?}", b.signer), b.read_only)
        };
        let is = |signs: bool, keys: u8| format!("Signer {{ signs: {signs}, keys: {keys} }}");
        assert_eq!(signer(&[], &[]), (is(false, 0), false));
        assert_eq!(signer(&[&signs], &[]), (is(true, 1), false));
        assert_eq!(signer(&[&signs, "--s3-layout=classic", &verify(&second)], &[]), (is(true, 2), false));
        // unsigned, it writes nothing where signatures are demanded
        assert_eq!(signer(&[&verify(&first), &verify(&second)], &[]), (is(false, 2), true));
        assert_eq!(signer(&[&verify(&first), "--write-prefix=p"], &[]), (is(false, 1), false));
        for between in [",", ":"] {
            let list = format!("{first}{between}{second}{between}");
            assert_eq!(signer(&[], &[("GOCACHE_VERIFY_KEY_FILE", &list)]), (is(false, 2), true));
        }
        for (flags, want) in [
            (vec![format!("--signing-key-file={first}")], "a public key"),
            (vec![verify(&key)], "a private key"),
            (vec![verify(&first), verify(&old)], "keygen"),
            (vec![format!("--signing-key-file={old}")], "keygen"),
            (vec![verify(&format!("{first}.none"))], "No such file"),
            (vec![verify("")], "names no file"),
            (vec!["--signing-key-file=".into()], "names no file"),
            (vec![signs.clone(), "--trust-write-prefix".into()], "cannot be combined"),
        ] {
            let args: Vec<&str> = ["--bucket=some"].into_iter().chain(flags.iter().map(String::as_str)).collect();
            let text = error(&args, &[]);
            assert!(text.contains(want) && text.starts_with("--"), "{text}");
        }
        std::fs::remove_dir_all(&dir).expect("removable");
    }

    #[test]
    fn addresses() {
        let socket = serve(&["serve", "--plugin=./s"], &[]).plugin;
        assert_eq!(socket, PluginAddr::Unix(PathBuf::from("/cwd/./s")));
        for (text, host, port) in [("h:1", "h", 1), ("[::1]:2", "::1", 2), (":3", "127.0.0.1", 3)] {
            match with(&["connect", text], &[]) {
                Ok(Invocation::Connect(c)) => assert_eq!(c.addr, ConnectAddr::Tcp(host.into(), port)),
                other => panic!("{other:?}"),
            }
        }
        for (args, variable, want) in [
            (&["connect", "/run/s"][..], "1", "/run/s"),
            (&["connect"], "~/s", "/home/u/s"),
            (&["connect", "${HOME}.s"], "", "/home/u.s"),
        ] {
            match with(args, &[("GOCACHE_PLUGIN", variable)]) {
                Ok(Invocation::Connect(c)) => assert_eq!(c.addr, ConnectAddr::Unix(want.into())),
                other => panic!("{other:?}"),
            }
        }
        for (text, want) in [(":80", "0.0.0.0:80"), ("[::1]:80", "[::1]:80"), ("127.0.0.2:0", "127.0.0.2:0")] {
            let http = serve(&["serve", "--plugin=1", "--http", text], &[]).http.expect("given");
            assert_eq!(http.addr.to_string(), want);
        }
    }

    #[test]
    fn run_takes_a_command_and_a_proxy_of_its_own() {
        let config = run(&["run", "--bucket=some", "go", "build", "--", "-v"], &[]);
        assert_eq!(config.command, ["go", "build", "--", "-v"]);
        assert!(config.http.is_none() && config.cache.bucket.is_some());
        assert!(run(&["run", "--settle", "go"], &[]).settle && !config.settle);
        let http = run(&["run", "--modproxy", "--", "go"], &[]).http.expect("--modproxy brings it");
        assert_eq!(http.addr.to_string(), "127.0.0.1:0");
    }

    #[test]
    fn clear_is_explicit() {
        // variables for builds change nothing, however wrong they are here
        let env = [
            ("GOCACHE_S3_BUCKET", "some"),
            ("GOCACHE_KEY_PREFIX", "p"),
            ("GOCACHE_WRITE_PREFIX", "x"),
            ("GOCACHE_READ_ONLY", "true"),
            ("GOCACHE_SIGNING_KEY_FILE", "/nonexistent"),
            ("GOCACHE_S3_LAYOUT", "nonsense"),
            ("GOCACHE_CONCURRENCY", "nonsense"),
        ];
        let target = |args: &[&str]| match with(args, &env) {
            Ok(Invocation::Clear(c)) => Ok(c.bucket.map(|b| b.prefix.to_string())),
            Err(e) => Err(e.to_string()),
            other => panic!("{other:?}"),
        };
        assert_eq!(target(&["clear", "--local"]), Ok(None));
        assert_eq!(target(&["clear", "--bucket=b-1", "--prefix=x"]), Ok(Some("x".to_string())));
        assert_eq!(target(&["clear", "--bucket=b-1", "--whole-bucket"]), Ok(Some(String::new())));
        for args in [
            &["clear"][..],
            &["clear", "--bucket=b-1"],
            &["clear", "--prefix=x"],
            &["clear", "--local", "--bucket=b-1", "--prefix=x"],
            &["clear", "--bucket=", "--prefix=x"],
            &["clear", "--bucket=b-1", "--prefix=x", "--read-only"],
            &["clear", "--bucket=b-1", "--prefix="],
            &["clear", "--bucket=b-1", "--prefix=x", "--whole-bucket"],
            &["clear", "--bucket=s3://b-1/x", "--whole-bucket"],
            &["clear", "--local", "--whole-bucket"],
        ] {
            assert!(target(args).is_err(), "{args:?}");
        }
    }

    #[test]
    fn help_and_version() {
        for (args, want) in [
            (&["help"][..], None),
            (&["--help"], None),
            (&["-h"], None),
            (&["help", "debug"], Some("debug")),
            (&["help", "connect"], Some("connect")),
            (&["help", "version"], Some("version")),
            (&["help", "help"], Some("help")),
            (&["version", "--help"], Some("version")),
            (&["run", "--help"], Some("run")),
        ] {
            match with(args, &[]) {
                Ok(Invocation::Help(topic)) => assert_eq!(topic.as_deref(), want, "{args:?}"),
                other => panic!("{other:?}"),
            }
        }
        for args in [&["version"][..], &["--version"], &["-version"], &["serve", "--version"]] {
            assert!(matches!(with(args, &[]), Ok(Invocation::Version(Version::Line))), "{args:?}");
        }
    }

    #[test]
    fn wrong_values_and_combinations() {
        for (args, want) in [
            (&["--expiry=1w"][..], "--expiry \"1w\": not a duration"),
            (&["-c=x"], "-c \"x\": not a whole number"),
            (&["--metrics=maybe"], "--metrics \"maybe\": not a bool"),
            (&["--debug=8"], "--debug \"8\": not a sum"),
            (&["--bucket=some", "--compression-level=20"], "--compression-level \"20\": not a level"),
            (&["--body-memory=1"], "--body-memory \"1\": less than"),
            (&["--bucket=some", "--s3-layout=x"], "--s3-layout \"x\": the layouts are"),
            (&["--bucket=a b"], "--bucket \"a b\": not a bucket's name"),
            (&["--bucket=file://x"], "--bucket \"file://x\": not an absolute path"),
            (&["--bucket=some", "--prefix=a/../b"], "--prefix \"a/../b\": not a key prefix"),
            (&["--bucket=some", "--s3-endpoint-url=h:1"], "--s3-endpoint-url \"h:1\": not an endpoint"),
            (&["--bucket=some", "--read-only", "--write-prefix=p"], "--write-prefix \"p\": cannot be combined"),
            (&["--bucket=s3://some/p", "--write-prefix=p/"], "--write-prefix \"p/\": is the same"),
            (&["--bucket=some", "--trust-write-prefix"], "--trust-write-prefix needs --write-prefix"),
            (&["--bucket=s3://some/p/", "--prefix=q"], "--prefix \"q\": --bucket \"s3://some/p/\" has another"),
            (&["--bucket=s3://some/a/../b"], "--bucket \"s3://some/a/../b\": not a key prefix"),
            (&["--bucket=some/p"], "--bucket \"some/p\": not a bucket's name, nor s3://name/prefix"),
            (&["--bucket=file://$HOMER/b"], "--bucket \"file://$HOMER/b\": HOMER is not set"),
            (&["--bucket=file://~u/b"], "--bucket \"file://~u/b\": ~ stands for"),
            (&["--cache-dir=c"], "--cache-dir \"c\": relative"),
            (&["keygen"], "keygen needs a file"),
            (&["keygen", "--cache-dir=/c", "f"], "--cache-dir has no meaning for \"keygen\""),
            (&["mod", "list", "-r"], "-r is for mod fetch"),
            (&["prune", "--expiry=1h", "--prefix=p"], "prune --prefix needs --bucket"),
            (&["--a\nb"], "unknown flag --a\\nb"),
            (&["--cache-dir="], "--cache-dir \"\": not a directory"),
            (&["serve"], "serve needs --plugin"),
            (&["serve", "--plugin=x"], "--plugin \"x\": neither"),
            (&["serve", "--plugin=70000"], "--plugin \"70000\": neither"),
            (&["serve", "--plugin=1", "--modproxy"], "--modproxy needs --http"),
            (&["serve", "--plugin=1", "--revproxy=h"], "--revproxy needs --http"),
            (&["serve", "--plugin=1", "--http=5970"], "--http \"5970\": not an address"),
            (&["serve", "--plugin=1", "--http=::1:80"], "--http \"::1:80\": not an address"),
            (&["serve", "--plugin=1", "--revproxy=https://h"], "--revproxy \"https://h\": write host"),
            (&["serve", "--plugin=1", "--offline"], "--offline needs --modproxy"),
            (&["serve", "--plugin=1", "--sumdb=x"], "--sumdb needs --modproxy"),
            (&["serve", "--plugin=1", "--ca-dir=x"], "--ca-dir needs --revproxy"),
            (&["serve", "--plugin=1", "--http-host=x"], "--http-host needs --http"),
            (&["serve", "--plugin=1", "--http=:1", "--http-auth-file="], "--http-auth-file \"\": names no file"),
            (&["serve", "--plugin=1", "--install-ca"], "--install-ca needs --revproxy"),
            (&["serve", "--plugin=1", "x"], "serve takes no \"x\""),
            (&["run"], "run needs a command"),
            (&["run", "--modproxy", "--upstream=direct", "go"], "--upstream \"direct\": an entry"),
            (&["connect"], "connect needs an address"),
            (&["connect", "~u/s"], "connect \"~u/s\": ~ stands for"),
            (&["connect", "0"], "connect \"0\": not a port"),
            (&["connect", "1", "2"], "connect takes no \"2\""),
            (&["prune", "--expiry=0"], "prune needs a limit"),
            (&["settle", "a", "b"], "settle takes no \"b\""),
            (&["settle", "--bucket=some"], "--bucket has no meaning for \"settle\""),
            (&["run", "--modes", "go"], "--modes is a flag of \"settle\", not of \"run\""),
            (&["prune", "--dry-run", "--expiry=1h"], "prune --dry-run needs --bucket"),
            (&["prune", "--bucket", "--expiry=30d"], "--bucket names none"),
            (&["prune", "--bucket=some"], "prune --bucket needs an age"),
            (&["prune", "--bucket=some", "--expiry=0"], "prune --bucket needs an age"),
            (&["prune", "--bucket=some", "--expiry=30d", "--read-only"], "prune --bucket: the bucket is only read"),
            (&["prune", "--bucket=some", "--expiry=30d", "--max-cache-size=1g"], "--max-cache-size \"1g\": is for"),
            (&["status", "--bucket"], "--bucket names none"),
            (&["push"], "push needs a bucket"),
            (&["push", "--bucket=some", "--sign"], "push --sign needs --signing-key-file"),
        ] {
            let text = error(args, &[]);
            assert!(text.starts_with(want), "{args:?}: {text:?} does not start with {want:?}");
        }
        assert!(error(&["connect"], &[("GOCACHE_PLUGIN", "x")]).starts_with("GOCACHE_PLUGIN \"x\": not a port"));
        assert!(error(&[], &[("GOCACHE_DIR", "c")]).starts_with("GOCACHE_DIR \"c\": relative"));
        assert!(error(&[], &[("GOCACHE_EXPIRY", "x")]).starts_with("GOCACHE_EXPIRY \"x\": not a duration"));
    }
}
