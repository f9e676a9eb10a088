//! Whole-project tests, in one binary because each binary links all of Burn.

mod cli;
mod finance_real;
mod finance_training;
mod frozen;
mod golden;
mod graph;
mod memory;
mod parity;
mod precision;
mod properties;
mod real_weights;
mod resnet50;
mod vectors;
