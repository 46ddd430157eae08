#include "apps/units.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/check.h"

namespace spillway {
namespace {

std::string refusal(std::string_view text, std::optional<uint64_t> total = {}) {
  try {
    parse_bytes("--host-mem", text, total);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    return error.what();
  }
  return "accepted";
}

TEST(UnitsTest, Amounts) {
  EXPECT_EQ(parse_bytes("--x", "0"), 0u);
  EXPECT_EQ(parse_bytes("--x", "4096"), 4096u);
  EXPECT_EQ(parse_bytes("--x", "6GiB"), 6ull << 30);
  EXPECT_EQ(parse_bytes("--x", "800MiB"), 800ull << 20);
  EXPECT_EQ(parse_bytes("--x", "1.5G"), 3ull << 29);
  EXPECT_EQ(parse_bytes("--x", " 64 mib "), 64ull << 20);
  EXPECT_EQ(parse_bytes("--x", "2T"), 2ull << 40);
  EXPECT_EQ(parse_bytes("--x", "16KB"), 16'000u);
  EXPECT_EQ(parse_bytes("--x", "1.25GB"), 1'250'000'000u);
  EXPECT_EQ(parse_bytes("--x", ".5K"), 512u);
  EXPECT_EQ(parse_bytes("--x", "18446744073709551615"), UINT64_MAX);
}

TEST(UnitsTest, Shares) {
  EXPECT_EQ(parse_bytes("--x", "80%", 1000), 800u);
  EXPECT_EQ(parse_bytes("--x", "12.5 %", 1000), 125u);
  EXPECT_EQ(parse_bytes("--x", "100%", UINT64_MAX), UINT64_MAX);
  EXPECT_EQ(parse_bytes("--x", "0%", 1000), 0u);
}

TEST(UnitsTest, RefusalsNameTheFlagAndTheText) {
  using testing::AllOf;
  using testing::HasSubstr;
  EXPECT_THAT(refusal("lots"), AllOf(HasSubstr("--host-mem: 'lots' is not an amount"), HasSubstr("800MiB")));
  EXPECT_THAT(refusal("12 GiBs"), HasSubstr("unknown unit 'GiBs'"));
  EXPECT_THAT(refusal("80%"), HasSubstr("the whole is not known"));
  EXPECT_THAT(refusal("101%", 10), HasSubstr("more than all"));
  for (const char* text : {"", " ", "-1", "+1", ".", "GiB", "%", "1.2.3", "1e9", "0x10", "1,5G", "nan", "inf"}) {
    EXPECT_THAT(refusal(text, 10), HasSubstr("--host-mem: '")) << text;
  }
  for (const char* text : {"18446744073709551616", "99999999999999999999999", "17179869184G", "17179869184.5G"}) {
    EXPECT_THAT(refusal(text), HasSubstr("more than 16 EiB")) << text;
  }
}

}  // namespace
}  // namespace spillway
