// OtherLoad: how much of our processors others used while something was measured. What was measured then is too slow.
#pragma once

#include <functional>
#include <string_view>

#include "runtime/hardware_profile.h"

namespace spillway {

// Share of our processors from which on what was measured is doubted.
inline constexpr double kMostOthers = 0.15;
inline constexpr int kMostTries = 3;

inline bool doubtful(const Conditions& conditions, double most_others) {
  return conditions.others > most_others && conditions.tries < kMostTries;
}
// A sentence through `say` where others took more.
void say_conditions(const Conditions& conditions, double most_others, const std::function<void(std::string_view)>& say);

class OtherLoad {
 public:
  // Counts from here on.
  OtherLoad();
  // Share of the time of all processors that we may run on, of other processes and of what the hypervisor took; 0 where
  // the system does not say (/proc/stat).
  double share() const;

 private:
  struct Counts {
    double all_s = 0;  // seconds that our processors were busy, or were kept from us
    double own_s = 0;  // of this process
    double wall_s = 0;
    int processors = 0;
  };
  static Counts now();

  Counts begin_;
};

}  // namespace spillway
