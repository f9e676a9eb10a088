//! Whole-project tests, in one binary because each binary links all of Burn.

mod golden;
mod parity;
mod real_weights;
mod resnet50;
