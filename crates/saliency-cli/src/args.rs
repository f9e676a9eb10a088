mod values;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum, builder::RangedU64ValueParser};
use clap_complete::Shell;
use saliency_core::Reduction;
use saliency_models::{
    data::{CsvOptions, Delimiter, Encoding, Missing, Quantity},
    predictor::Family,
    train::TaskKind,
};

use values::memory;
pub use values::{Between, ReduceChoice, Rows, TargetChoice};

/// Which parts of the input did the network rely on?
#[derive(Parser, Debug)]
#[command(
    name = "saliency",
    version,
    propagate_version = true,
    after_help = "Examples:
  saliency demo                                   maps of the embedded demo model, no files needed
  saliency fetch resnet50                         download torchvision's weights once
  saliency explain dog.jpg                        what ResNet50 saw, as a picture
  saliency explain photos/ --method smoothgrad --target \"Labrador\" --save png,npy
  saliency compare dog.jpg --classes top:5        what tells the classes apart"
)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Draw saliency maps of images, or explain rows and windows of a CSV file
    #[command(after_help = "Examples:
  saliency explain dog.jpg
  saliency explain photos/ --method smoothgrad --samples 100 --out maps
  saliency explain dog.jpg --target top:3 --reduce l2 --save png,json,npy
  saliency explain dog.jpg --reduce all           every channel reduction side by side
  saliency explain x.png --model cifar_resnet20 --weights resnet20.th --json
  saliency explain --data rows.csv --model credit/ --row 17,20..25
  saliency explain --data prices.csv --model prices/ --window 2020-01-02..2020-04-30")]
    Explain(Explain),
    /// What a model of rows or series relies on over a whole file
    #[command(after_help = "Examples:
  saliency importance --data rows.csv --model credit/
  saliency importance --data rows.csv --model credit/ --group-by region --json
  saliency importance --data prices.csv --model prices/ --method gradient --rows 5000")]
    Importance(Importance),
    /// Compare the maps of several classes of one image
    #[command(after_help = "Examples:
  saliency compare dog.jpg
  saliency compare dog.jpg --classes \"Labrador,beagle,207\" --method smoothgrad")]
    Compare(Compare),
    /// Statistics and histogram of images' maps
    #[command(after_help = "Example:
  saliency stats dog.jpg --method smoothgrad --json")]
    Stats(Explain),
    /// How much maps change when a little noise is added to the input
    #[command(after_help = "Example:
  saliency sensitivity dog.jpg --scale 0.01 --method smoothgrad")]
    Sensitivity(Sensitivity),
    /// The noise demonstration: plain gradients and SmoothGrad over noise levels
    #[command(after_help = "Example:
  saliency noise dog.jpg --levels 0.05,0.1,0.2")]
    Noise(Noise),
    /// List the networks
    #[command(after_help = "Example:
  saliency models --json")]
    Models(Listing),
    /// List the methods, or the options of one
    #[command(after_help = "Examples:
  saliency methods
  saliency methods smoothgrad
  saliency methods --json")]
    Methods(Methods),
    /// List the layers of a network, for --layer
    #[command(after_help = "Examples:
  saliency layers --model resnet50
  saliency layers --model demo --json")]
    Layers(Layers),
    /// Time each layer of a network on the CPU, forward and back
    #[command(after_help = "Examples:
  saliency profile --model resnet50
  saliency profile --model resnet50 --rows 8 --json")]
    Profile(Profile),
    /// List the devices of this machine
    #[command(after_help = "Example:
  saliency devices --json")]
    Devices(Listing),
    /// Download published weights into the cache folder
    #[command(after_help = "Example:
  saliency fetch resnet50")]
    Fetch(Fetch),
    /// Train a model on a CSV file, for tables and time series
    #[command(after_help = "Examples:
  saliency train --data credit.csv --target default --out credit/
  saliency train --data german.data --no-header --target c21 --task classification --out german/
  saliency train --data vix.csv --target CLOSE --target-as return --sequence 30 --horizon 1,5 --out vix/
  saliency train --data prices.csv --target signal --sequence 12 --horizon 0 --model lstm --out signal/")]
    Train(Box<Train>),
    /// Train the embedded demo model again
    #[command(after_help = "Example:
  saliency train-demo --out models/demo.safetensors")]
    TrainDemo(TrainDemo),
    /// Maps of the embedded demo model on generated scenes, with a page to look at
    #[command(after_help = "Example:
  saliency demo --out demo --scenes 120")]
    Demo(Demo),
    /// Train on generated tables and series whose truth is known, and measure every method
    #[command(after_help = "Example:
  saliency demo-finance --out finance --samples 500")]
    DemoFinance(DemoFinance),
    /// Print a shell completion script
    #[command(after_help = "Example:
  saliency completions bash > ~/.local/share/bash-completion/completions/saliency")]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[derive(ClapArgs, Debug)]
pub struct ModelArgs {
    /// Network: resnet50, squeezenet1_1, cifar_resnet20, ..., demo (see `saliency models`);
    /// for --data the folder of a model
    #[arg(long, default_value = "resnet50", value_name = "NAME")]
    pub model: String,
    /// Weights file (.pth, .pt, .th, .safetensors, .bpk); else the one that `fetch` stored
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Class names, one per line or a JSON list; else those of the network's data set
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// How pictures are brought to the network's input
    #[arg(long, value_enum, default_value_t)]
    pub preprocess: PreprocessChoice,
    /// auto, cpu, ndarray, wgpu, wgpu:N, cuda or cuda:N (see `saliency devices`)
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Floating-point type of the network and its input
    #[arg(long, value_enum, default_value_t)]
    pub precision: Precision,
    /// Rows per batch; else as many as fit in --memory (2 GiB)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub batch: Option<u32>,
    /// Memory for a batch, such as 2GiB or 512MiB
    #[arg(long, value_name = "SIZE", value_parser = memory, conflicts_with = "batch")]
    pub memory: Option<usize>,
}

/// The floating-point type that a network computes with.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Single precision
    #[default]
    F32,
    /// Double precision, where the device has it
    F64,
    /// Half precision: less memory; see docs/methods/precision.md for its error
    F16,
    /// bfloat16: f32's range with 8 bits
    Bf16,
}

/// How pictures are brought to the network's input.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PreprocessChoice {
    /// The network's own
    #[default]
    Auto,
    /// The whole picture stretched to the input's size
    Stretch,
    /// Shortest side to 256, centre crop of 224
    Crop,
    /// Caffe's: BGR, 0 to 255, smoothly stretched to 227x227
    Caffe,
    /// The same by the nearest pixel
    CaffeNearest,
}

#[derive(ClapArgs, Debug)]
pub struct MethodArgs {
    /// Attribution method (see `saliency methods`); else gradient for images and
    /// integrated-gradients for rows
    #[arg(long, value_name = "NAME")]
    pub method: Option<String>,
    /// The method that a wrapper such as SmoothGrad averages
    #[arg(long, value_name = "NAME")]
    pub of: Option<String>,
    /// Layer to look at, for methods that look at one (see `saliency layers`)
    #[arg(long, value_name = "NAME")]
    pub layer: Option<String>,
    /// Steps along the path, for path methods
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Samples, for methods that draw some
    #[arg(long, value_name = "N")]
    pub samples: Option<u64>,
    /// Noise of SmoothGrad, relative to the input's range
    #[arg(long, value_name = "LEVEL", allow_negative_numbers = true)]
    pub noise: Option<f64>,
    /// Seed of everything that is drawn
    #[arg(long)]
    pub seed: Option<u64>,
    /// Any other option of the method as `saliency methods NAME` lists it; `of.` in front of
    /// it means the wrapped method's
    #[arg(long = "option", value_name = "NAME=VALUE")]
    pub options: Vec<String>,
    /// Method and all its options from a JSON file, as `--json` prints them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["method", "of"])]
    pub recipe: Option<PathBuf>,
}

#[derive(ClapArgs, Debug)]
pub struct OutputArgs {
    /// Folder for what is written
    #[arg(long, default_value = "saliency-maps", value_name = "DIR")]
    pub out: PathBuf,
    /// What to write
    #[arg(long, value_enum, value_delimiter = ',', default_value = "png")]
    pub save: Vec<Format>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// A file format for maps.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Pictures
    Png,
    /// Results and statistics
    Json,
    /// Signed attributions, C x H x W, F or T x F, numpy
    Npy,
    /// Signed attributions and reduced map, safetensors
    Safetensors,
    /// Contributions of rows and series, as a table
    Csv,
    /// Nothing
    None,
}

#[derive(ClapArgs, Debug)]
pub struct Explain {
    /// Image files, or folders of them
    #[arg(required_unless_present = "data", value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    /// predicted, a class number, a class name, or top:K; of a forecast an output, mean, or
    /// mean:FROM..TO
    #[arg(long, default_value = "predicted", allow_negative_numbers = true)]
    pub target: TargetChoice,
    #[command(flatten)]
    pub rows: RowArgs,
    /// Channel reduction: max, mean, l2, sum, squared, positive_only, or all
    #[arg(long, default_value = "max")]
    pub reduce: ReduceChoice,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub method: MethodArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Which rows of a file are explained.
#[derive(ClapArgs, Debug)]
pub struct RowArgs {
    /// CSV file whose rows or windows are explained, for a model that `saliency train` made
    #[arg(long, value_name = "FILE", conflicts_with = "images")]
    pub data: Option<PathBuf>,
    /// Rows of --data, from 1, such as 17 or 17,20..25; of a series, windows that end there
    #[arg(long, value_name = "ROWS", requires = "data")]
    pub row: Option<Rows>,
    /// The last window of --data between two times, such as 2020-01-02..2020-04-30
    #[arg(
        long,
        value_name = "FROM..TO",
        requires = "data",
        conflicts_with = "row"
    )]
    pub window: Option<Between>,
    /// Features that are listed and drawn
    #[arg(long, value_name = "N", default_value = "10", value_parser = at_least_one())]
    pub top: usize,
    #[command(flatten)]
    pub csv: CsvArgs,
}

#[derive(ClapArgs, Debug)]
pub struct Importance {
    /// CSV file that is explained as a whole
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// A class, an output, mean, or mean:FROM..TO; else the second of two classes, the
    /// predicted one of more, or the mean of a forecast
    #[arg(long, default_value = "predicted", allow_negative_numbers = true)]
    pub target: TargetChoice,
    /// Column whose values split the rows into groups
    #[arg(long, value_name = "COLUMN")]
    pub group_by: Option<String>,
    /// Most rows or windows that are explained, from the start of the file; else all
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    pub rows: Option<u64>,
    /// Rows in the beeswarm, drawn evenly from all
    #[arg(long, value_name = "N", default_value = "500", value_parser = RangedU64ValueParser::<usize>::new().range(1..=20_000))]
    pub sample: usize,
    /// Features that are listed and drawn
    #[arg(long, value_name = "N", default_value = "10", value_parser = at_least_one())]
    pub top: usize,
    #[command(flatten)]
    pub csv: CsvArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub method: MethodArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(ClapArgs, Debug)]
pub struct Compare {
    /// Image file
    #[arg(value_name = "IMAGE")]
    pub image: PathBuf,
    /// top:K, or class numbers and names separated by commas
    #[arg(long, default_value = "top:5")]
    pub classes: String,
    /// Channel reduction
    #[arg(long, default_value = "max")]
    pub reduce: Reduction,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub method: MethodArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(ClapArgs, Debug)]
pub struct Sensitivity {
    /// Image files, or folders of them
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    /// Standard deviation of the noise, in units of the preprocessed input
    #[arg(long, default_value_t = 0.01, allow_negative_numbers = true)]
    pub scale: f64,
    /// predicted, a class number or a class name
    #[arg(long, default_value = "predicted")]
    pub target: TargetChoice,
    /// Channel reduction
    #[arg(long, default_value = "max")]
    pub reduce: Reduction,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub method: MethodArgs,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(ClapArgs, Debug)]
pub struct Noise {
    /// Image file
    #[arg(value_name = "IMAGE")]
    pub image: PathBuf,
    /// Noise levels, relative to the input's range
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "0.05,0.1,0.2",
        allow_negative_numbers = true
    )]
    pub levels: Vec<f64>,
    /// Samples of SmoothGrad
    #[arg(long, default_value = "50", value_name = "N", value_parser = at_least_one())]
    pub samples: usize,
    /// Seed of all noise
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// predicted, a class number or a class name
    #[arg(long, default_value = "predicted")]
    pub target: TargetChoice,
    /// Channel reduction
    #[arg(long, default_value = "max")]
    pub reduce: Reduction,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(ClapArgs, Debug)]
pub struct Listing {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(ClapArgs, Debug)]
pub struct Methods {
    /// One method: all its options with their defaults
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(ClapArgs, Debug)]
pub struct Layers {
    /// Network: resnet50, squeezenet1_1, cifar_resnet20, ..., demo (see `saliency models`)
    #[arg(long, default_value = "resnet50", value_name = "NAME")]
    pub model: String,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(ClapArgs, Debug)]
pub struct Profile {
    /// Network: resnet50, squeezenet1_1, cifar_resnet20, ..., demo (see `saliency models`)
    #[arg(long, default_value = "resnet50", value_name = "NAME")]
    pub model: String,
    /// Pictures in the batch
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub rows: u32,
    /// Passes forward and back; medians are printed
    #[arg(long, default_value_t = 9, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10000))]
    pub passes: u32,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(ClapArgs, Debug)]
pub struct Fetch {
    /// Network whose weights to download
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Another folder than the user's cache
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Another server that has the same file names
    #[arg(long, value_name = "URL", env = "SALIENCY_MIRROR")]
    pub mirror: Option<String>,
}

#[derive(ClapArgs, Debug)]
pub struct Train {
    /// CSV file: a row for each case or each time
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// Column to tell
    #[arg(long, value_name = "COLUMN")]
    pub target: String,
    /// Folder to write: model.json, weights.safetensors, card.md
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// classification or regression; else by what the target holds
    #[arg(long)]
    pub task: Option<TaskKind>,
    /// linear, mlp, lstm, gru, tcn or transformer; else mlp, and lstm for windows
    #[arg(long)]
    pub model: Option<Family>,
    /// Columns to read, separated by commas; else all but the target and dates
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    pub features: Option<Vec<String>>,
    /// Columns to leave out, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    pub drop: Vec<String>,
    /// Rows of a window: the data is a series
    #[arg(long, value_name = "T", value_parser = at_least_one())]
    pub sequence: Option<usize>,
    /// How many rows after a window the target is, separated by commas; 0 is its last row
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1",
        requires = "sequence"
    )]
    pub horizon: Vec<usize>,
    /// What of a series' target is told: value, change, return or direction
    #[arg(long, value_name = "WHAT", default_value_t, requires = "sequence")]
    pub target_as: Quantity,
    /// Column with the rows' times; else the first that holds ISO dates
    #[arg(long, value_name = "COLUMN", requires = "sequence")]
    pub time: Option<String>,
    #[command(flatten)]
    pub csv: CsvArgs,
    /// Columns whose numbers are categories, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    pub categorical: Vec<String>,
    /// Columns that hold numbers, separated by commas; text in them is refused
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    pub numeric: Vec<String>,
    /// What empty cells are: error, mean (or the most frequent category), or drop the row
    #[arg(long, default_value = "error")]
    pub missing: Missing,
    /// Texts that count as empty cells, separated by commas
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "TEXTS",
        allow_hyphen_values = true
    )]
    pub absent: Vec<String>,
    /// Width of hidden layers; else 32, and 64 in an mlp
    #[arg(long, value_parser = at_least_one())]
    pub hidden: Option<usize>,
    /// Hidden layers; else by the model
    #[arg(long, value_parser = at_least_one())]
    pub layers: Option<usize>,
    /// Most passes over the training rows
    #[arg(long, default_value_t = 100, value_parser = at_least_one())]
    pub epochs: usize,
    /// Rows for each step; else 32, 128 or 512 by the number of rows
    #[arg(long, value_parser = at_least_one())]
    pub batch: Option<usize>,
    /// Learning rate
    #[arg(long, default_value_t = 0.002)]
    pub rate: f64,
    /// Weight decay
    #[arg(long, default_value_t = 1e-4)]
    pub decay: f64,
    /// Passes without a lower validation loss after which training ends
    #[arg(long, default_value_t = 10, value_parser = at_least_one())]
    pub patience: usize,
    /// Let rare classes count as much as frequent ones
    #[arg(long)]
    pub balance: bool,
    /// Share of the rows that says when to stop
    #[arg(long, default_value_t = 0.15)]
    pub validation: f64,
    /// Share of the rows that the scores are measured on
    #[arg(long, default_value_t = 0.15)]
    pub test: f64,
    /// Seed of the split of a table, the first weights and the order of rows
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print the content of model.json
    #[arg(long)]
    pub json: bool,
    /// auto, cpu, ndarray, wgpu, wgpu:N, cuda or cuda:N; small networks are fastest on the CPU
    #[arg(long, default_value = "cpu")]
    pub device: String,
}

/// How a CSV file is written.
#[derive(ClapArgs, Clone, Debug)]
pub struct CsvArgs {
    /// comma, semicolon, tab, pipe or space; else found out from the file
    #[arg(long)]
    pub delimiter: Option<Delimiter>,
    /// The first line is data; columns are called c1, c2, ...
    #[arg(long)]
    pub no_header: bool,
    /// utf-8, utf-16le, utf-16be or windows-1252; else by the byte order mark, or utf-8
    #[arg(long)]
    pub encoding: Option<Encoding>,
}

impl CsvArgs {
    pub fn options(&self) -> CsvOptions {
        CsvOptions {
            delimiter: self.delimiter,
            header: !self.no_header,
            encoding: self.encoding,
        }
    }
}

#[derive(ClapArgs, Debug)]
pub struct TrainDemo {
    /// File to write
    #[arg(long, default_value = "demo.safetensors")]
    pub out: PathBuf,
    /// Scenes per step
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=4096))]
    pub batch: u32,
    /// Optimiser steps
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: u32,
    /// Largest learning rate
    #[arg(long, default_value_t = 5e-3)]
    pub rate: f64,
    /// Parts of a batch that are trained on side by side, one core each
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub replicas: u32,
    /// Seed of the scenes and the initial weights
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Unseen scenes to test on
    #[arg(long, default_value_t = 2400, value_parser = clap::value_parser!(u32).range(1..))]
    pub test: u32,
    /// Write the weights even if the accuracy is below 97 %
    #[arg(long)]
    pub keep: bool,
    /// auto, cpu, ndarray, wgpu, wgpu:N, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: String,
}

#[derive(ClapArgs, Debug)]
pub struct Demo {
    /// Folder to write
    #[arg(long, default_value = "saliency-demo")]
    pub out: PathBuf,
    /// Methods under all their presets
    #[arg(long)]
    pub presets: bool,
    /// Scenes to measure the methods on (pictures are drawn of the first six)
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub scenes: u32,
    /// auto, cpu, ndarray, wgpu, wgpu:N, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: String,
}

#[derive(ClapArgs, Debug)]
pub struct DemoFinance {
    /// Folder to write
    #[arg(long, default_value = "saliency-demo-finance")]
    pub out: PathBuf,
    /// Unseen rows and windows to explain and to measure on
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(2..=500))]
    pub samples: u32,
    /// Model of the series: lstm, gru, tcn, transformer, mlp or linear
    #[arg(long)]
    pub model: Option<Family>,
    /// Seed of the data and the training
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// auto, cpu, ndarray, wgpu, wgpu:N, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: String,
}

fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
