#include "apps/selection_flags.h"

#include <fmt/format.h>

#include <charconv>

#include "apps/flags.h"
#include "kernels/check.h"

namespace spillway {
namespace {

constexpr double kMostTokens = 1 << 28;

[[noreturn]] void refuse(const std::string& text) { throw Error(ErrorKind::usage, text); }

KvSelector selector_of(const std::string& text) {
  std::string names;
  for (const KvSelector one : kKvSelectors) {
    const char* name = kKvSelectorNames[static_cast<int>(one)];
    if (text == name) return one;
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  refuse(fmt::format("--kv-select: \"{}\" is not one of {}", text, names));
}

// "N" tokens, or "P%" of them.
void set_budget(const std::string& text, KvSelection& selection) {
  const bool share = text.ends_with('%');
  double value = 0;
  const char* last = text.data() + text.size() - (share ? 1 : 0);
  const auto [end, problem] = std::from_chars(text.data(), last, value, std::chars_format::fixed);
  const bool number = problem == std::errc{} && end == last && !text.empty();
  if (!number || value <= 0 || (share ? value > 100 : value > kMostTokens || value != static_cast<int>(value))) {
    refuse(fmt::format("--select-budget {}: a number of tokens or a share of them (10%) is wanted", text));
  }
  if (share) {
    selection.share = value / 100;
    return;
  }
  selection.tokens = static_cast<int>(value);
  const int least = kSinkTokens + kRecentTokens + 2 * kGranuleTokens;
  if (selection.tokens < least) {
    refuse(fmt::format("--select-budget {}: at least {} are wanted, for the first {} and the last {} are always read",
                       text, least, kSinkTokens, kRecentTokens));
  }
}

}  // namespace

void SelectionFlags::add(CLI::App& command) {
  const std::string group = "Selection of KV";
  add_option(command, "--kv-select", selector,
             "What decode steps read of the KV: all; what a rehearsal one layer earlier chooses (rehearsal); for "
             "comparison, that as InfiniGen was published (infinigen), and what the true scores choose, without "
             "fetching ahead (oracle)")
      ->capture_default_str()
      ->group(group);
  const auto of_selection = [&](CLI::Option* option) {
    of_selection_.push_back(option->capture_default_str()->group(group));
    return option;
  };
  of_selection(add_option(command, "--select-budget", budget,
                          "Tokens that a KV head reads in a step: a number, or a share, of at least 128"));
  rank_option_ = of_selection(
      add_option(command, "--rank", rank, "Numbers of a partial key; 0: half of the head, of infinigen a quarter"));
  rank_option_->check(within(0, 4096));
  key_bits_option_ =
      of_selection(add_option(command, "--key-bits", key_bits, "Bits of each: 16, 8 or 4; 0: 4, of infinigen 16"));
  key_bits_option_->check(CLI::IsMember({0, 16, 8, 4}));
  of_selection(add_option(command, "--granule", granule, "Tokens chosen and fetched together: 1, 2 or 4"))
      ->check(CLI::IsMember({1, 2, 4}));
  of_selection(add_option(command, "--first-layers", first_layers,
                          "The model's first two layers: full (all of their KV is read), rehearsed"))
      ->check(CLI::IsMember({"full", "rehearsed"}));
  of_selection(add_option(command, "--ahead", ahead, "Layers from the input that is rehearsed on to its layer: 1 or 2"))
      ->check(CLI::IsMember({1, 2}));
  of_selection(add_option(command, "--hot-set", hot_set,
                          "KV that the device keeps of what was chosen before, in terms of what is chosen at once"))
      ->check(within(1, 1000));
  of_selection(add_option(command, "--check-every", check_every,
                          "In every so many-th step one layer, in turn, reads all of its KV too, to see what share of "
                          "the attention the choice misses; 0: never"))
      ->check(within(0, kMostTokens));
  with_twin(command.add_flag("--exact", exact, "Refuse whatever changes the answer: packed KV, KV that is not read"))
      ->group(group);
}

void SelectionFlags::resolve(Options& options) const {
  KvSelection& selection = options.selection;
  selection.selector = selector_of(selector);
  if (exact && selection.on()) refuse(fmt::format("--exact: --kv-select {} does not read all of the KV", selector));
  if (exact && options.kv_codec != KvCodec::f16) {
    refuse(fmt::format("--exact: --kv-type {} rounds the KV", info(options.kv_codec).name));
  }
  for (const CLI::Option* option : of_selection_) {
    if (option->count() > 0 && !selection.on()) {
      refuse(fmt::format("{} means nothing where all of the KV is read (--kv-select)", option->get_name()));
    }
  }
  if (!selection.on()) return;
  set_budget(budget, selection);
  if (selection.selector == KvSelector::oracle) {
    for (const CLI::Option* option : {rank_option_, key_bits_option_}) {
      if (option->count() > 0) refuse(option->get_name() + ": the oracle scores whole keys");
    }
  }
  selection.rank = rank;
  selection.key_bits = key_bits;
  selection.granule_tokens = granule;
  selection.whole_layers = first_layers == "full" ? KvSelection{}.whole_layers : 0;
  selection.ahead = ahead;
  selection.hot_slots = hot_set;
  selection.check_every = check_every;
}

}  // namespace spillway
