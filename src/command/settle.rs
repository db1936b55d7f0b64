//! `settle`: times for tracked files that follow from what they hold, see [`crate::settle`].

use std::fmt::Display;

use serde_json::json;

use crate::config::SettleConfig;
use crate::error::{Error, ExitCode};
use crate::settle::{Options, Report, settle};
use crate::text::things;

/// Settles, and says what that came to; fails where something could not be looked at or written.
pub(super) fn execute(config: &SettleConfig) -> Result<ExitCode, Error> {
    let report =
        settle(config.dir.as_deref(), &config.options).map_err(|why| Error::failed(format!("settle: {why}")))?;
    let dry_run = config.options.dry_run;
    let text = match config.json {
        true => format!("{}\n", json!({"dry_run": dry_run, "files": report.files, "folders": report.folders})),
        false => format!("{}\n", text(&report, dry_run)),
    };
    super::print(&text)?;
    tell(&report);
    Ok(if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Settles for `run`, which goes on whatever becomes of it.
pub(super) fn before_run() {
    match settle(None, &Options::default()) {
        Ok(report) => {
            log::info!("{}", text(&report, false));
            tell(&report);
        }
        Err(why) => warn(&why),
    }
}

fn text(report: &Report, dry_run: bool) -> String {
    let (files, folders) = (&report.files, &report.folders);
    let failed = match files.failed + folders.failed {
        0 => String::new(),
        failed => format!("; {failed} could not be settled"),
    };
    format!(
        "{} {} and {}; {} and {} were so already; {} and {} keep their times{failed}",
        if dry_run { "would settle" } else { "settled" },
        things(files.settled, "file"),
        things(folders.settled, "folder"),
        things(files.already, "file"),
        things(folders.already, "folder"),
        things(files.kept, "changed file"),
        things(folders.kept, "folder"),
    )
}

/// Says the first of what did not work, and how much more there is.
fn tell(report: &Report) {
    if let Some(first) = report.failures.first() {
        let more = report.failures.len() - 1;
        warn(&if more > 0 { format!("{first} (and {} more)", more) } else { first.clone() });
    }
}

fn warn(why: &dyn Display) {
    super::say(format_args!("go-cache-plugin: settle: {why}"));
}
