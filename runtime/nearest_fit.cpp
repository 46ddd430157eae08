#include "runtime/nearest_fit.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>

#include "kernels/check.h"
#include "runtime/free_disk.h"
#include "runtime/plan_sizes.h"
#include "runtime/planner.h"
#include "runtime/process_memory.h"

namespace spillway {
namespace {

constexpr uint64_t kMiB = 1024 * 1024;

std::string mib(uint64_t bytes) { return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / kMiB); }
// What is needed, in bytes too where a budget beside it would read alike.
std::string needed_mib(uint64_t needed, uint64_t budget) {
  return mib(needed) == mib(budget) ? fmt::format("{} ({} bytes)", mib(needed), needed) : mib(needed);
}
uint64_t whole_mib(uint64_t bytes) { return align_up(bytes, kMiB); }

// The least value in (refused, fits] that fits; what is above it fits too.
template <typename Fits>
uint64_t least_that_fits(uint64_t refused, uint64_t fits, const Fits& try_value) {
  while (fits - refused > 1) {
    const uint64_t middle = refused + (fits - refused) / 2;
    (try_value(middle) ? fits : refused) = middle;
  }
  return fits;
}

class NearestFit {
 public:
  explicit NearestFit(const PlanInput& input)
      : in_(input),
        sizes_(input),
        device_budget_(*input.options.device_bytes),
        host_budget_(input.options.host_bytes.value_or(0)),
        host_needed_(sizes_.host_fixed()),
        host_enough_(host_short() ? enough(host_needed_, process_on(false)) : host_budget_),
        device_needed_(sizes_.least_device(host_enough_, input.options.disk_bytes)) {
    SPILLWAY_CHECK(host_short() || device_short());
    // A larger process takes room of the KV's in host memory, which the device has to hold, or else the offer.
    const auto holds = [&](uint64_t host_mib) { return device_offer(host_mib * kMiB) <= device_budget_; };
    const uint64_t enough = host_enough_ / kMiB;
    if (host_short() && !device_short() && !holds(enough)) {
      host_enough_ = kMiB * least_that_fits(enough, enough + whole_mib(variation(process_on(false))) / kMiB, holds);
    }
  }

  std::string message() const {
    std::string text = "does not fit: ";
    if (device_short()) text += device_text();
    if (device_short() && host_short()) text += "; ";
    if (host_short()) text += host_text();
    text += "; nearest fit:";
    if (device_short())
      text += fmt::format(" --device-mem {}MiB", enough(device_offer(host_enough_), process_on(true)) / kMiB);
    if (host_short()) text += fmt::format(" --host-mem {}MiB", host_enough_ / kMiB);
    return text + shorter_context() + smaller_chunk() + more_host() + more_disk();
  }

 private:
  // What the device needs beside a host budget of a somewhat larger process.
  uint64_t device_offer(uint64_t host) const {
    return sizes_.least_device(host - std::min(host, variation(process_on(false))), in_.options.disk_bytes);
  }
  bool host_short() const { return host_needed_ > host_budget_; }
  bool device_short() const { return device_needed_ > device_budget_; }
  struct Budgets {
    uint64_t device, host, disk;
  };
  // As they were given, for a process that is somewhat larger.
  Budgets given() const {
    Budgets budgets{device_budget_, host_budget_, in_.options.disk_bytes};
    budgets.device -= std::min(budgets.device, variation(process_on(true)));
    budgets.host -= std::min(budgets.host, variation(process_on(false)));
    return budgets;
  }
  static bool fits(const PlanSizes& sizes, const Budgets& budgets) {
    return sizes.host_fixed() <= budgets.host && sizes.least_device(budgets.host, budgets.disk) <= budgets.device;
  }
  static uint64_t variation(uint64_t process) { return process > 0 ? kProcessVaries : 0; }
  // In whole MiB; of which `process` bytes are the process's own.
  static uint64_t enough(uint64_t needed, uint64_t process) { return whole_mib(needed + variation(process)); }
  uint64_t process_on(bool device) const { return sizes_.process_in(device ? Tier::device : Tier::host); }

  std::string device_text() const {
    const uint64_t process = process_on(true);
    const uint64_t kv = device_needed_ - sizes_.device_fixed() - sizes_.least_weights();
    const uint64_t choosing = sizes_.selection_on_device();
    const std::string selection =
        choosing == 0 ? "" : fmt::format(", partial keys, queries and places to choose by {}", mib(choosing));
    return fmt::format(
        "--device-mem is {} ({} bytes), but at least {} is needed ({} {}, workspace of {} rows {}, weights {}, KV of "
        "{} positions {}{})",
        mib(device_budget_), device_budget_, needed_mib(device_needed_, device_budget_),
        in_.device.host_addressable() ? "process" : "CUDA context", mib(process), sizes_.chunk,
        mib(sizes_.device_fixed() - process - choosing), mib(sizes_.least_weights()), sizes_.context, mib(kv),
        selection);
  }

  std::string host_text() const {
    const uint64_t process = process_on(false);
    return fmt::format("--host-mem is {} ({} bytes), but at least {} is needed (process {}, staging and inputs {})",
                       mib(host_budget_), host_budget_, needed_mib(host_needed_, host_budget_), mib(process),
                       mib(host_needed_ - process));
  }

  // ", or -c N" where a shorter context alone would do.
  std::string shorter_context() const {
    PlanSizes sizes = sizes_;
    const auto short_of = [&](uint64_t pages) {
      sizes.set_shape(static_cast<int>(pages) * kPageTokens, in_.options.chunk);
      return !fits(sizes, given());
    };
    if (short_of(1)) return {};
    const uint64_t pages = least_that_fits(1, page_rows(sizes_.context), short_of) - 1;
    return fmt::format(", or -c {}", pages * kPageTokens);
  }

  // ", or -ub N" where smaller chunks of the prompt alone would do. Of that the user decides, not a budget: a chunk
  // that followed from one could change the answer.
  std::string smaller_chunk() const {
    constexpr uint64_t kStep = 16;
    const Budgets budgets = given();
    PlanSizes sizes = sizes_;
    const auto short_of = [&](uint64_t rows) {
      sizes.set_shape(in_.options.context, static_cast<int>(rows));
      return !fits(sizes, budgets);
    };
    if (sizes_.chunk == 1 || short_of(1)) return {};
    const uint64_t rows = least_that_fits(1, sizes_.chunk, short_of) - 1;
    return fmt::format(", or -ub {}", rows < kStep ? rows : align_down(rows, kStep));
  }

  // ", or --host-mem N" where more room for KV in host memory alone would do, and some was given.
  std::string more_host() const {
    if (host_short() || !in_.options.host_bytes) return {};
    const uint64_t now = host_budget_ / kMiB;
    const uint64_t all = now + whole_mib(sizes_.kv.all()) / kMiB + 1;
    const auto enough = [&](uint64_t host) {
      return fits(sizes_,
                  {given().device, host * kMiB - std::min(host * kMiB, host_budget_ - given().host), given().disk});
    };
    if (!enough(all)) return {};
    return fmt::format(", or --host-mem {}MiB", least_that_fits(now, all, enough));
  }

  // ", or --disk-mem N" where room for KV on disk alone would do.
  std::string more_disk() const {
    const uint64_t now = in_.options.disk_bytes / kMiB;
    const uint64_t all = now + whole_mib(sizes_.kv.all()) / kMiB + 1;
    const auto enough = [&](uint64_t disk) { return fits(sizes_, {given().device, given().host, disk * kMiB}); };
    if (!enough(all)) return {};
    const uint64_t needed = least_that_fits(now, all, enough);
    std::string text = fmt::format(", or --disk-mem {}MiB", needed);
    const std::optional<uint64_t> free = free_disk_bytes(in_.options.disk_directory);
    // Not all of the budget need be used; but it may.
    if (free && needed * kMiB > *free) {
      text += fmt::format(" in another --disk-dir ({} bytes are free in {})", *free, in_.options.disk_directory);
    }
    return text;
  }

  const PlanInput& in_;
  PlanSizes sizes_;
  uint64_t device_budget_, host_budget_;
  uint64_t host_needed_, host_enough_;
  uint64_t device_needed_;  // with host_enough_
};

}  // namespace

void refuse_to_plan(const PlanInput& input) { throw Error(ErrorKind::fit, NearestFit(input).message()); }

}  // namespace spillway
