// How long the phases of a generation took.
#pragma once

namespace spillway {

struct Timings {
  double load_s = 0;
  double prefill_s = 0;
  double prefill_tps = 0;  // prompt tokens per second
  double decode_s = 0;
  double decode_tps = 0;  // decode steps per second
  double ttft_s = 0;      // from the start of the request to the first token; 0: nothing was generated
};

}  // namespace spillway
