// Patterns out of a file: what they find, and that none of them takes forever, in one match or in many.
#include "loader/text/regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/check.h"

namespace spillway {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> matches(const std::string& pattern, const std::string& text) {
  std::vector<std::string> found;
  Regex(pattern, "a file").for_each(text, [&](size_t begin, size_t end, bool match) {
    if (match) found.push_back(text.substr(begin, end - begin));
  });
  return found;
}

std::string refusal(const std::string& pattern, const std::string& text) {
  try {
    matches(pattern, text);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::model);
    return error.what();
  }
  return "taken";
}

TEST(RegexTest, FindsInOrder) { EXPECT_THAT(matches("\\d+|[a-z]", "a12b3 c"), ElementsAre("a", "12", "b", "3", "c")); }

TEST(RegexTest, OneMatchThatTakesTooLongIsRefused) {
  EXPECT_THAT(refusal("(a+)+$", std::string(64, 'a') + "b"), AllOf(HasSubstr("a file"), HasSubstr("(a+)+$")));
}

// Each match looks through all that follows, and is found: no one of them takes long.
TEST(RegexTest, ManyMatchesThatTakeTooLongTogetherAreRefused) {
  const std::string text(1 << 20, 'a');
  EXPECT_THAT(refusal("a(?=.*z|)", text), AllOf(HasSubstr("takes too long"), HasSubstr("matches in the first")));
  EXPECT_EQ(matches("a", text).size(), text.size()) << "as many that are quick are taken";
}

}  // namespace
}  // namespace spillway
