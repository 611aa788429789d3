@0xd3c8a1f57b2e9d64;

interface Echo {
  get @0 (request :Data) -> (reply :Data);
}
