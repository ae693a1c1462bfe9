//! `tiepack frontier`: loss against bytes, everything that is measured measured once.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::args::FrontierArgs;
use super::files::{self, Validation};
use super::output::{Output, OutputKind};
use super::{guard, interrupt, pack, page};
use crate::compile::{Options, Source, compile_each};
use crate::error::{self, Error, Result};
use crate::frontier::{Width, prices};
use crate::progress::Progress;
use crate::save;
use crate::text::thousands;
use crate::verify::several;
use crate::verify::verdict::{Evaluation, Note};

/// Bits a weight between which caps lie that nobody named.
const SPAN: (f64, f64) = (1.5, 6.0);

/// The first line of `--csv`.
pub const TABLE_HEAD: &str = "cap,bytes,bits_per_weight,kl,kl_standard_error,loss_difference,\
    loss_difference_standard_error,same_top,bytes_per_millinat";

/// Loss against bytes.
#[derive(Debug, Serialize)]
pub struct Frontier {
    /// What a person calls the model.
    pub model: String,
    /// Weights of distinct matrices and embeddings.
    pub weights: usize,
    /// Bytes that count against every cap beside the artifact.
    pub includes: u64,
    /// By cap, the smallest first.
    pub points: Vec<Point>,
    /// What sharing pays for; `None`: the configuration names no width.
    pub width: Option<Width>,
    /// Other packers, as they were given.
    pub peers: Vec<Peer>,
    pub cached_statistics: bool,
    /// Ctrl-C ended the work early.
    pub interrupted: bool,
    /// Wall-clock seconds of all of it.
    pub seconds: f64,
    pub notes: Vec<Note>,
}

/// One cap.
#[derive(Debug, Serialize)]
pub struct Point {
    pub cap: u64,
    /// Why there is no artifact for it; the figures below are `None` then.
    pub refusal: Option<String>,
    /// Of the artifact.
    pub bytes: Option<u64>,
    pub bits_per_weight: Option<f64>,
    pub blake3: Option<String>,
    /// Where it is kept.
    pub file: Option<PathBuf>,
    pub evaluation: Option<Evaluation>,
    /// Bytes that the next thousandth of a nat of KL costs, by the line to the next point.
    pub bytes_per_millinat: Option<f64>,
    /// Bytes that sharing saves at these bits a weight.
    pub saved_by_sharing: Option<f64>,
}

/// Another packer's file of the same model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Peer {
    pub packer: String,
    pub bytes: u64,
    /// Nats per token.
    pub kl: f64,
}

/// # Errors
/// Whatever is wrong with the files or the model; Cap when the model fits none of the caps. One of several that is too small
/// is a row that says so.
pub fn run(args: &FrontierArgs, progress: &dyn Progress) -> Result<Frontier> {
    let started = Instant::now();
    let includes = files::includes(&args.include)?;
    args.csv.iter().try_for_each(|path| page::named(path, "csv"))?;
    let peers = args.peers.as_deref().map(peers).transpose()?.unwrap_or_default();
    if let Some(folder) = &args.keep {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    }
    let measuring = &args.measuring;
    let overrides = args.files.overrides(Some(&args.validation), (&measuring.calib, Some(&args.reading)));
    let device = args.device.open()?;
    let (located, model) = files::model(&args.model, &args.files, &overrides)?;
    let model = model.on(&device);
    let curvature = measuring.curvature(&model)?;
    let mut notes = pack::notes(&model);
    let trial = match model.network() {
        Ok(net) => Validation::of(&located).read(net.vocab_size(), args.val_rows)?,
        Err(why) => {
            notes.push(Note::NoNetwork(why.message));
            None
        }
    };
    match &trial {
        None => notes.push(Note::NoValidation),
        Some(trial) => drop(trial.windows(model.network()?.context())?),
    }
    let calib = match curvature {
        Source::Measured => Some(measuring.calibration((&args.model, &model), &located, &mut notes, progress)?),
        _ => None,
    };
    let options = Options {
        includes,
        seed: measuring.seed,
        calib_rows: measuring.rows(),
        cache: measuring.folder(&mut notes)?,
        curvature,
        heal: args.heal,
        stop: Box::new(interrupt::interrupted),
        ..Options::new(0, measuring.effort)
    };
    interrupt::listen();
    let mut caps = if args.caps.is_empty() { spread(model.weights(), args.points) } else { args.caps.clone() };
    caps.sort_unstable();
    caps.dedup();
    let mut points: Vec<Point> = caps.iter().map(|cap| Point::of(*cap)).collect();

    // Files are proved as they lie on the disk; those that nobody wants to keep lie there for a while only.
    let temporary = tempfile::tempdir().map_err(|e| Error::io("create", &std::env::temp_dir(), e))?;
    let folder = args.keep.as_deref().unwrap_or(temporary.path());
    let name = files::name(&args.model);
    let path = |cap: u64| folder.join(format!("{name}-{cap}.tiepack"));
    let files: Vec<PathBuf> = caps.iter().map(|cap| path(*cap)).collect();
    let inputs: Vec<PathBuf> = located.files().into_iter().chain(args.include.iter().cloned()).collect();
    let artifacts: Vec<Output> = files.iter().map(|path| OutputKind::Artifact.at(path)).collect();
    guard::outputs(&artifacts, &inputs, args.writing.force)?;
    let (mut cached_statistics, mut refused) = (false, None);
    let mut reached = vec![false; caps.len()];
    let compiled = compile_each(&model, calib.as_deref(), &options, &caps, progress, &mut |at, compiled| {
        let cap = caps[at];
        match compiled {
            Ok(compiled) => {
                save::save(&path(cap), &compiled.bytes)?;
                cached_statistics |= compiled.cached_statistics;
                progress.note(&format!(
                    "{} bytes for a cap of {}",
                    thousands(compiled.bytes.len() as u64),
                    thousands(cap)
                ));
            }
            Err(e) if e.kind == error::Kind::Cap => {
                points[at].refusal = Some(e.message.clone());
                // The caps may be compiled in any order.
                if refused.as_ref().is_none_or(|(before, _)| *before < cap) {
                    refused = Some((cap, e));
                }
            }
            Err(e) => return Err(e),
        }
        reached[at] = true;
        // The next one would only be begun.
        if interrupt::interrupted() { Err(Error::interrupted("packing")) } else { Ok(()) }
    });
    let interrupted = interrupt::heeded();
    match compiled {
        Err(e) if e.kind == error::Kind::Interrupted && reached.contains(&true) => notes.push(Note::Interrupted),
        compiled => compiled?,
    }
    for (point, _) in points.iter_mut().zip(&reached).filter(|(_, reached)| !**reached) {
        point.refusal = Some("not packed: interrupted".into());
    }
    let fits: Vec<usize> = (0..points.len()).filter(|at| points[*at].refusal.is_none()).collect();
    if let (true, Some((_, e))) = (fits.is_empty(), refused) {
        return Err(Error { message: format!("no cap fits; of the largest: {}", e.message), ..e });
    }
    let paths: Vec<PathBuf> = fits.iter().map(|at| path(caps[*at])).collect();
    let found = several(
        &paths.iter().map(PathBuf::as_path).collect::<Vec<_>>(),
        (&args.model, &model),
        trial.as_ref(),
        progress,
    )?;
    let width = Width::of(&model);
    for ((at, path), (file, evaluation)) in fits.into_iter().zip(paths).zip(found) {
        points[at] = Point {
            bytes: Some(file.bytes),
            bits_per_weight: file.bits_per_weight,
            blake3: Some(file.blake3),
            file: args.keep.as_ref().map(|_| path),
            evaluation,
            saved_by_sharing: width.zip(file.bits_per_weight).map(|(width, bits)| width.saved(bits)),
            ..Point::of(caps[at])
        };
    }
    price(&mut points);
    let frontier = Frontier {
        model: name,
        weights: model.weights(),
        includes,
        points,
        width,
        peers,
        cached_statistics,
        interrupted,
        seconds: started.elapsed().as_secs_f64(),
        notes,
    };
    if let Some(path) = &args.csv {
        save::save(path, csv(&frontier).as_bytes())?;
    }
    Ok(frontier)
}

impl Point {
    fn of(cap: u64) -> Point {
        Point {
            cap,
            refusal: None,
            bytes: None,
            bits_per_weight: None,
            blake3: None,
            file: None,
            evaluation: None,
            bytes_per_millinat: None,
            saved_by_sharing: None,
        }
    }

    /// KL(original ‖ packed) in nats per token.
    pub fn divergence(&self) -> Option<f64> {
        self.evaluation.as_ref()?.cost.as_ref().map(|cost| cost.divergence.mean.value)
    }
}

/// Caps at equal ratios, rounded to three digits.
fn spread(weights: usize, points: u16) -> Vec<u64> {
    let ratio = (SPAN.1 / SPAN.0).ln() / f64::from(points - 1);
    let cap = |k: u16| SPAN.0 * (ratio * f64::from(k)).exp() * weights as f64 / 8.0;
    let rounded = |bytes: f64| {
        let unit = 10f64.powf((bytes.log10().floor() - 2.0).max(0.0));
        ((bytes / unit).round() * unit) as u64
    };
    (0..points).map(|k| rounded(cap(k)).max(1)).collect()
}

fn price(points: &mut [Point]) {
    let measured: Vec<usize> = (0..points.len()).filter(|at| points[*at].divergence().is_some()).collect();
    let known: Vec<(u64, f64)> =
        measured.iter().filter_map(|at| Some((points[*at].bytes?, points[*at].divergence()?))).collect();
    for (at, price) in measured.into_iter().zip(prices(&known)) {
        points[at].bytes_per_millinat = price;
    }
}

fn peers(path: &Path) -> Result<Vec<Peer>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    serde_json::from_str(&text).map_err(|e| {
        Error::input(format!("{}: {e}", path.display()))
            .hint("wanted an array as [{\"packer\": \"name\", \"bytes\": 1000, \"kl\": 0.01}]")
    })
}

/// A line for every cap; what there is not is empty.
fn csv(frontier: &Frontier) -> String {
    let mut out = format!("{TABLE_HEAD}\n");
    let text = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    for point in &frontier.points {
        let cost = point.evaluation.as_ref().and_then(|evaluation| evaluation.cost.as_ref());
        let (kl, loss) = (cost.map(|cost| cost.divergence.mean), cost.map(|cost| cost.nats_per_token));
        let cells = [
            point.cap.to_string(),
            point.bytes.map_or_else(String::new, |bytes| bytes.to_string()),
            text(point.bits_per_weight),
            text(kl.map(|kl| kl.value)),
            text(kl.and_then(|kl| kl.standard_error)),
            text(loss.map(|loss| loss.value)),
            text(loss.and_then(|loss| loss.standard_error)),
            text(cost.map(|cost| cost.same_top)),
            text(point.bytes_per_millinat),
        ];
        out += &(cells.join(",") + "\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_that_nobody_named_are_spread_evenly() {
        let caps = spread(2_555_904, 5);
        assert_eq!((caps[0], caps[4], caps.len()), (479_000, 1_920_000, 5));
        let ratios: Vec<f64> = caps.windows(2).map(|pair| pair[1] as f64 / pair[0] as f64).collect();
        assert!(ratios.iter().all(|ratio| (ratio - 2f64.sqrt()).abs() < 0.01), "{ratios:?}");
        assert_eq!(spread(10, 2), [2, 8]);
    }
}
