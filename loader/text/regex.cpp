#include "loader/text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>
#include <time.h>

#include "kernels/check.h"
#include "loader/printable.h"
#include "loader/text/regex_dialect.h"

namespace spillway {
namespace {

constexpr size_t kLongestPattern = 16 << 10;  // the longest real one has 600 bytes
constexpr size_t kJitStackBytes = 64 << 20;   // a run of a million letters that must be given back one by one
// Steps of one match that a file's pattern may take: the families' need a few for each byte.
constexpr uint32_t kStepLimit = 10'000'000;
// Of the thread's own time, for all matches of a text: PCRE2 does not say how many steps a match took. The families'
// patterns need a hundredth of it.
constexpr double kSeconds = 2, kSecondsPerByte = 2e-6;
constexpr int kMatchesBetweenLooks = 64;

double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// What matching needs of its own, one for each thread.
struct MatchState {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(64 << 10, kJitStackBytes, nullptr);

  MatchState() {
    SPILLWAY_CHECK(data && context);
    if (stack) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  MatchState(const MatchState&) = delete;
  ~MatchState() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
  void set_limits(uint32_t steps) {
    pcre2_set_match_limit(context, steps);
    pcre2_set_depth_limit(context, steps);
  }
};

// Where the character after `at` begins.
size_t next_character(std::string_view text, size_t at) {
  ++at;
  while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) ++at;
  return at;
}

}  // namespace

Regex::Regex(const std::string& pattern, const std::string& where, bool trusted)
    : pattern_(pattern), where_(where), trusted_(trusted) {
  if (pattern.size() > kLongestPattern) {
    throw Error(ErrorKind::model, fmt::format("{}: a pattern of {} bytes; the longest read has {}", where,
                                              pattern.size(), kLongestPattern));
  }
  const std::string translated = to_pcre2(pattern, where);
  int error = 0;
  PCRE2_SIZE error_at = 0;
  const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), options, &error,
                                   &error_at, nullptr);
  if (code == nullptr) {
    PCRE2_UCHAR reason[160] = {};
    pcre2_get_error_message(error, reason, sizeof reason);
    throw Error(ErrorKind::model, fmt::format("{}: the pattern \"{}\" is not understood: {}", where, printable(pattern),
                                              reinterpret_cast<const char*>(reason)));
  }
  code_.reset(code, pcre2_code_free);
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without JIT pcre2_match interprets: slower, the same matches
}

void Regex::for_each(std::string_view text, const std::function<void(size_t, size_t, bool)>& take) const {
  thread_local MatchState state;
  state.set_limits(trusted_ ? UINT32_MAX : kStepLimit);
  const PCRE2_SIZE* found = pcre2_get_ovector_pointer(state.data);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const auto too_long = [&](const std::string& why) {
    return Error(
        trusted_ ? ErrorKind::io : ErrorKind::model,
        fmt::format("{}: the pattern \"{}\" takes too long on this text ({})", where_, printable(pattern_), why));
  };
  const double end_time =
      trusted_ ? 0 : thread_seconds() + kSeconds + kSecondsPerByte * static_cast<double>(text.size());
  int matches = 0;
  size_t done = 0;  // all before it was given away
  for (size_t from = 0; from < text.size();) {
    const int result =
        pcre2_match(code_.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK, state.data, state.context);
    if (result == PCRE2_ERROR_NOMATCH) break;
    if (result < 0) throw too_long(fmt::format("PCRE2 error {}", result));
    if (!trusted_ && ++matches % kMatchesBetweenLooks == 0 && thread_seconds() > end_time) {
      throw too_long(fmt::format("{} matches in the first {} bytes", matches, found[1]));
    }
    const size_t begin = found[0], end = found[1];
    SPILLWAY_CHECK(begin >= from && end <= text.size());
    if (begin > done) take(done, begin, false);
    if (end > begin) take(begin, end, true);
    done = std::max(begin, end);
    from = end > begin ? end : next_character(text, done);
  }
  if (done < text.size()) take(done, text.size(), false);
}

}  // namespace spillway
