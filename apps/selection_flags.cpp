#include "apps/selection_flags.h"

#include <fmt/format.h>

#include <charconv>
#include <initializer_list>

#include "apps/flags.h"
#include "kernels/check.h"

namespace spillway {
namespace {

constexpr double kMostTokens = 1 << 28;
constexpr int kBoundsTokens = 16;  // of a page, as published (arXiv 2406.10774, section 4.1)

[[noreturn]] void refuse(const std::string& text) { throw Error(ErrorKind::usage, text); }

// Which of `all`, whose names are by their numbers.
template <typename Kind, size_t kCount>
Kind named(const char* flag, const std::string& text, const Kind (&all)[kCount], const char* const (&names)[kCount]) {
  std::string list;
  for (const Kind one : all) {
    const char* name = names[static_cast<int>(one)];
    if (text == name) return one;
    list += (list.empty() ? "" : ", ") + std::string(name);
  }
  refuse(fmt::format("{}: \"{}\" is not one of {}", flag, text, list));
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
             "comparison, that as InfiniGen was published (infinigen), what the bounds of each granule's keys choose "
             "(bounds: Quest), and what the true scores choose (oracle), both without fetching ahead")
      ->type_name(fmt::format("{}", fmt::join(kKvSelectorNames, "|")))
      ->capture_default_str()
      ->group(group);
  add_option(command, "--kv-keep", keep,
             "What stays of the KV once a prompt has been read: all; for comparison, the first and the newest tokens "
             "(window: StreamingLLM), or the newest and those that have had most attention (heavy: H2O)")
      ->type_name(fmt::format("{}", fmt::join(kKvRetentionNames, "|")))
      ->capture_default_str()
      ->group(group);
  const auto of_selection = [&](CLI::Option* option) {
    of_selection_.push_back(option->capture_default_str()->group(group));
    return option;
  };
  of_selection(
      add_option(command, "--select-budget", budget,
                 "Tokens that a KV head reads in a step, or that stay: a number, or a share, of at least 128"));
  alpha_option_ = of_selection(add_option(
      command, "--select-alpha", alpha,
      "Of these only those whose foretold score is within so much of the highest (InfiniGen has 4 and 5); 0: all"));
  alpha_option_->check(within(0, 100));
  top_p_option_ = of_selection(add_option(command, "--select-top-p", top_p,
                                          "Of these only the fewest that have this share of the foretold attention, "
                                          "between 0 and 1; 0: all"));
  top_p_option_->check(within(0, 1));
  rank_option_ = of_selection(
      add_option(command, "--rank", rank, "Numbers of a partial key; 0: half of the head, of infinigen a quarter"));
  rank_option_->check(within(0, 4096));
  key_bits_option_ =
      of_selection(add_option(command, "--key-bits", key_bits, "Bits of each: 16, 8 or 4; 0: 4, of infinigen 16"));
  key_bits_option_->check(CLI::IsMember({0, 16, 8, 4}));
  of_selection(add_option(command, "--granule", granule,
                          "Tokens chosen and fetched together: 1, 2, 4, 8, 16, 32 or 64; 0: 4, of bounds 16"))
      ->check(CLI::IsMember({0, 1, 2, 4, 8, 16, 32, 64}));
  of_selection(add_option(command, "--first-layers", first_layers,
                          "The model's first two layers: full (all of their KV is read), rehearsed"))
      ->check(CLI::IsMember({"full", "rehearsed"}));
  ahead_option_ = of_selection(
      add_option(command, "--ahead", ahead, "Layers from the input that is rehearsed on to its layer: 1 or 2"));
  ahead_option_->check(CLI::IsMember({1, 2}));
  of_selection(
      add_option(command, "--hot-set", hot_set,
                 "The most KV that the device keeps of what was chosen before, in terms of what is chosen at once"))
      ->check(within(1, 1000));
  of_selection(add_option(command, "--check-every", check_every,
                          "In every so many-th step one layer, in turn, reads all of its KV too, to see what share of "
                          "the attention the choice misses; 0: never"))
      ->check(within(0, kMostTokens));
  of_selection_.push_back(with_twin(command.add_flag("--repair", repair,
                                                     "Choose again by a layer's own query when it is there, and fetch "
                                                     "what the foretold one has missed, before the layer reads"))
                              ->group(group));
  with_twin(command.add_flag("--exact", exact, "Refuse whatever changes the answer: packed KV, KV that is not read"))
      ->group(group);
}

void SelectionFlags::resolve(Options& options) const {
  KvSelection& selection = options.selection;
  selection.selector = named("--kv-select", selector, kKvSelectors, kKvSelectorNames);
  selection.keep = named("--kv-keep", keep, kKvRetentions, kKvRetentionNames);
  if (exact && selection.on()) refuse(fmt::format("--exact: {} does not read all of the KV", selection.flag()));
  if (exact && packs(options.kv_codec)) {
    refuse(fmt::format("--exact: --kv-type {} rounds the KV", info(options.kv_codec).name));
  }
  for (const CLI::Option* option : of_selection_) {
    if (option->count() > 0 && !selection.on()) {
      refuse(fmt::format("{} means nothing where all of the KV is read (--kv-select, --kv-keep)", option->get_name()));
    }
  }
  if (!selection.on()) return;
  set_budget(budget, selection);
  refuse_idle(selection);
  selection.alpha = alpha;
  selection.top_p = top_p;
  selection.repair = repair;
  selection.rank = rank;
  selection.key_bits = key_bits;
  selection.granule_tokens = granule > 0                                ? granule
                             : selection.selector == KvSelector::bounds ? kBoundsTokens
                                                                        : kGranuleTokens;
  selection.whole_layers = first_layers == "full" ? KvSelection{}.whole_layers : 0;
  selection.ahead = ahead;
  selection.hot_slots = hot_set;
  selection.check_every = check_every;
  check_policy(selection, options.kv_codec);
}

// Flags that this way of choosing has no use for.
void SelectionFlags::refuse_idle(const KvSelection& selection) const {
  const auto refuse_all = [](std::initializer_list<const CLI::Option*> options, const std::string& why) {
    for (const CLI::Option* option : options) {
      if (option->count() > 0) refuse(option->get_name() + ": " + why);
    }
  };
  if (selection.selector == KvSelector::oracle) {
    refuse_all({rank_option_, key_bits_option_}, "the oracle scores whole keys");
  }
  if (selection.selector == KvSelector::bounds) {
    refuse_all({rank_option_, key_bits_option_}, "bounds are of whole keys");
  }
  if (selection.lets_go()) {
    refuse_all({rank_option_, key_bits_option_}, selection.flag() + " scores no keys");
  } else if (!selection.foretells()) {
    refuse_all({ahead_option_}, selection.flag() + " goes by the true query, and foretells nothing");
  }
}

}  // namespace spillway
