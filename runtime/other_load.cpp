#include "runtime/other_load.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <fstream>
#include <sstream>
#include <string>

namespace spillway {

void say_conditions(const Conditions& conditions, double most_others,
                    const std::function<void(std::string_view)>& say) {
  if (conditions.others <= most_others) return;
  say(fmt::format("others used {:.0f} % of the processors meanwhile, so what was measured may be too slow; {}",
                  100 * conditions.others,
                  doubtful(conditions, most_others) ? "the next start measures again, and the better counts"
                                                    : "--refresh measures again"));
}

OtherLoad::OtherLoad() : begin_(now()) {}

double OtherLoad::share() const {
  const Counts end = now();
  const double span = (end.wall_s - begin_.wall_s) * end.processors;
  if (span <= 0) return 0;
  const double others = (end.all_s - begin_.all_s) - (end.own_s - begin_.own_s);
  return std::clamp(others / span, 0.0, 1.0);
}

// proc_stat(5): cpuN user nice system idle iowait irq softirq steal, in ticks.
OtherLoad::Counts OtherLoad::now() {
  Counts counts;
  cpu_set_t ours;
  CPU_ZERO(&ours);
  if (sched_getaffinity(0, sizeof ours, &ours) != 0) return counts;
  const double tick_s = 1.0 / static_cast<double>(sysconf(_SC_CLK_TCK));
  std::ifstream stat("/proc/stat");
  for (std::string line; std::getline(stat, line) && line.starts_with("cpu");) {
    std::istringstream fields(line.substr(3));
    unsigned cpu = 0;
    double user = 0, nice = 0, system = 0, idle = 0, wait = 0, irq = 0, soft = 0, steal = 0;
    if (line[3] == ' ' || !(fields >> cpu >> user >> nice >> system >> idle >> wait >> irq >> soft)) continue;
    if (cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, &ours)) continue;
    fields >> steal;
    counts.all_s += (user + nice + system + irq + soft + steal) * tick_s;
    ++counts.processors;
  }
  timespec own{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own);
  counts.own_s = static_cast<double>(own.tv_sec) + 1e-9 * static_cast<double>(own.tv_nsec);
  counts.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  return counts;
}

}  // namespace spillway
