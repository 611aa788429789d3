//! `invokectl` as its users meet it: the real program, against the real daemon, both in processes of their own.
#![cfg(feature = "cli")]

mod call;
mod check;
mod contract;
mod explain;
mod interrupts;
mod measure;
mod monitor;
mod narrow;
mod on_demand;
mod serve;
mod world;
