mod claims;
mod failures;
mod fixture;
mod lifecycle;
mod selected;
mod writes;
