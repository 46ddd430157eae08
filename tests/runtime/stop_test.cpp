#include "runtime/stop.h"

#include <gtest/gtest.h>

#include <random>

#include "kernels/check.h"

namespace spillway {
namespace {

// The text byte by byte, whole prefixes against whole stop strings.
std::string naive(const std::string& text, const std::vector<std::string>& stops, bool& stopped) {
  stopped = false;
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : stops) {
      if (std::string_view(text).substr(0, end).ends_with(stop)) longest = std::max(longest, stop.size());
    }
    if (longest > 0) {
      stopped = true;
      return text.substr(0, end - longest);
    }
  }
  return text;
}

TEST(StopTest, HoldsBackABeginningAndCuts) {
  StopStrings stop({"###", "END"});
  EXPECT_EQ(stop.push("one E"), "one ");
  EXPECT_EQ(stop.push("N"), "");
  EXPECT_EQ(stop.push(""), "");
  EXPECT_EQ(stop.push("T #"), "ENT ");
  EXPECT_EQ(stop.push("# ##"), "## ");
  EXPECT_FALSE(stop.stopped());
  EXPECT_EQ(stop.push("## never seen"), "");
  EXPECT_TRUE(stop.stopped());
  EXPECT_EQ(stop.met(), "###");
  EXPECT_EQ(stop.push("nor this"), "");
  EXPECT_EQ(stop.finish(), "");
}

TEST(StopTest, TheEndGivesBackWhatWasHeld) {
  StopStrings stop({"END"});
  EXPECT_EQ(stop.push("the EN"), "the ");
  EXPECT_EQ(stop.finish(), "EN");
  EXPECT_EQ(stop.finish(), "");
  EXPECT_FALSE(stop.stopped());
}

TEST(StopTest, OverlapsAndRepetitions) {
  {
    StopStrings stop({"aab"});
    EXPECT_EQ(stop.push("aaaa"), "aa");
    EXPECT_EQ(stop.push("b"), "");
    EXPECT_TRUE(stop.stopped());
  }
  {
    StopStrings stop({"bc", "abcd", "abc"});  // ends first, then the longest
    EXPECT_EQ(stop.push("xabcd"), "x");
    EXPECT_EQ(stop.met(), "abc");
  }
  {
    StopStrings stop({"abab", "b c"});
    EXPECT_EQ(stop.push("ababab"), "");
    EXPECT_EQ(stop.met(), "abab");
  }
}

TEST(StopTest, NoneStopsNothing) {
  StopStrings stop({});
  EXPECT_EQ(stop.push("all of it"), "all of it");
  EXPECT_EQ(stop.finish(), "");
  EXPECT_FALSE(stop.stopped());
}

TEST(StopTest, EmptyIsRefused) {
  try {
    StopStrings stop({"a", ""});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    EXPECT_EQ(std::string(error.what()).substr(0, 7), "--stop:");
  }
}

// Characters share lead bytes (é è ê; 你 佡); pieces are cut between characters, as the tokenizer's stream cuts them.
TEST(StopTest, RandomAgainstNaiveInAnyPieces) {
  const std::vector<std::string> letters = {"a", "b", "é", "è", "ê", "你", "佡", "😀", "😁"};
  std::mt19937_64 random(11);
  const auto word = [&](size_t length, size_t alphabet, std::vector<std::string>* characters = nullptr) {
    std::string made;
    for (size_t i = 0; i < length; ++i) {
      const std::string& c = letters[random() % alphabet + (alphabet == 3 ? 2 : 0)];
      made += c;
      if (characters != nullptr) characters->push_back(c);
    }
    return made;
  };
  int stops_met = 0;
  for (int round = 0; round < 20000; ++round) {
    const size_t alphabet = round % 3 == 0 ? 2 : round % 3 == 1 ? 3 : letters.size();
    std::vector<std::string> stops(random() % 4);
    for (std::string& stop : stops) stop = word(1 + random() % 7, alphabet);
    std::vector<std::string> characters;
    const std::string text = word(random() % 40, alphabet, &characters);
    bool wanted_stop = false;
    const std::string wanted = naive(text, stops, wanted_stop);

    StopStrings stop(stops);
    std::string got, fed;
    for (size_t i = 0; i < characters.size();) {
      std::string piece;
      for (size_t n = random() % 4; n > 0 && i < characters.size(); --n) piece += characters[i++];
      fed += piece;
      const std::string out = stop.push(piece);
      ASSERT_TRUE(out.empty() || (static_cast<unsigned char>(out[0]) & 0xC0) != 0x80) << "half a character";
      got += out;
      // Never more is held back than could still become a stop string.
      if (!stop.stopped()) {
        const std::string held = fed.substr(got.size());
        bool beginning = held.empty();
        for (const std::string& s : stops) beginning |= s.size() > held.size() && s.starts_with(held);
        ASSERT_TRUE(beginning) << held;
      }
    }
    got += stop.finish();
    ASSERT_EQ(got, wanted) << text;
    ASSERT_EQ(stop.stopped(), wanted_stop);
    stops_met += wanted_stop;
  }
  EXPECT_GT(stops_met, 5000);
  EXPECT_LT(stops_met, 15000);
}

}  // namespace
}  // namespace spillway
