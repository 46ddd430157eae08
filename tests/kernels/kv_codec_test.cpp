// Packed KV pages: their layout and arithmetic, and the bytes that another program makes of the same page.
#include "kernels/kv_codec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "kernels/reference/packed_page.h"

namespace spillway {
namespace {

constexpr KvCodec kPackers[] = {KvCodec::q8, KvCodec::q4, KvCodec::kivi4, KvCodec::kivi2};

TEST(KvCodec, Names) {
  std::string names;
  for (const KvCodec codec : kAllKvCodecs) names += std::string(" ") + info(codec).name;
  EXPECT_EQ(names, " fp16 fp32 q8 q4 kivi4 kivi2");
}

TEST(KvCodec, GroupsAreTheLargestDivisorsUpTo64) {
  const int expected[][2] = {{8, 8}, {16, 16}, {64, 64}, {72, 24}, {80, 40}, {96, 48}, {104, 8}, {128, 64}, {256, 64}};
  for (const auto& [head_dim, group] : expected) EXPECT_EQ(channel_group(head_dim), group) << head_dim;
}

// Of a head of 128: 4 bits and 32 of scale for each 64 elements, 4.5 bits an element.
TEST(KvCodec, PagesTakeTheBytesThatTheirBitsSay) {
  const int elements = 2 * kPageTokens * 128;
  EXPECT_EQ(PackedPage::of(KvCodec::q8, 128).bytes() * 8, elements * 17 / 2);
  EXPECT_EQ(PackedPage::of(KvCodec::q4, 128).bytes() * 8, elements * 9 / 2);
  EXPECT_EQ(PackedPage::of(KvCodec::kivi4, 128).bytes() * 8, elements * 9 / 2);
  EXPECT_EQ(PackedPage::of(KvCodec::kivi2, 128).bytes() * 8, elements * 5 / 2);
}

// Every byte of a page is one part's, all of a granule lie together, and what is loaded as words is aligned.
TEST(KvCodec, PartsOfAPageFillItWithoutOverlap) {
  for (const KvCodec codec : kPackers) {
    for (int head_dim = 8; head_dim <= 256; head_dim += 8) {
      const PackedPage p = PackedPage::of(codec, head_dim);
      std::vector<int> owners(static_cast<size_t>(p.bytes()), 0);
      const auto own = [&](int first, int bytes) {
        for (int i = first; i < first + bytes; i++) owners.at(static_cast<size_t>(i))++;
      };
      own(0, p.header_bytes);
      for (int token = 0; token < kPageTokens; token++) {
        const int granule = p.header_bytes + token / kGranuleTokens * p.granule_bytes;
        for (const bool value : {false, true}) {
          own(p.codes(token, value), p.code_bytes);
          EXPECT_GE(p.codes(token, value), granule);
          EXPECT_LE(p.codes(token, value) + p.code_bytes, granule + p.granule_bytes);
          if (!value && p.header_bytes > 0) continue;
          own(p.scales(token, value), head_dim / p.group * 4);
          EXPECT_LE(p.scales(token, value) + head_dim / p.group * 4, granule + p.granule_bytes);
          EXPECT_EQ(p.scales(token, value) % 4, 0);
        }
        EXPECT_EQ(granule % 16, 0);
      }
      EXPECT_EQ(std::set<int>(owners.begin(), owners.end()), std::set<int>{1}) << info(codec).name << " " << head_dim;
    }
  }
}

TEST(KvCodec, ScalesAreGuarded) {
  EXPECT_EQ(group_scale(0.5f, 0.5f, true, 4).scale, 0);
  EXPECT_EQ(inverse_of(group_scale(0.5f, 0.5f, true, 4)), 0.0f);
  EXPECT_EQ(code_of(0.5f, 0.5f, 0.0f, 4), 0u);
  EXPECT_EQ(group_scale(-0.0f, -0.0f, true, 2).minimum, 0) << "zero has one form, whichever was found";
  for (const int bits : {2, 4, 8}) {  // the widest range still unpacks to numbers
    const GroupScale widest = group_scale(-65504.0f, 65504.0f, true, bits);
    const float top = static_cast<float>((1 << bits) - 1);
    EXPECT_TRUE(is_finite_f16(unpacked(top, f16_to_f32(widest.scale), f16_to_f32(widest.minimum)))) << bits;
    const GroupScale none = group_scale(0.0f, 1.0f, false, bits);
    EXPECT_TRUE(std::isnan(f16_to_f32(unpacked(0.0f, f16_to_f32(none.scale), f16_to_f32(none.minimum)))));
    EXPECT_EQ(code_of(INFINITY, 0.0f, inverse_of(none), bits), 0u);
    EXPECT_EQ(code_of(NAN, 0.0f, inverse_of(none), bits), 0u);
  }
}

// Half a scale and the rounding of halves, element by element; and what was unpacked stays what it is.
TEST(KvCodec, WhatComesBackIsNear) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (const KvCodec codec : kPackers) {
    for (const int head_dim : {8, 64, 72, 80, 200, 256}) {
      const KvFormat format{DType::f16, 1, head_dim, codec};
      const PackedPage p = format.packed_page();
      std::vector<uint16_t> page(static_cast<size_t>(2 * kPageTokens * head_dim)), back(page.size());
      for (uint16_t& half : page) half = f32_to_f16(normal(random));
      std::vector<std::byte> packed(static_cast<size_t>(p.bytes()));
      reference::pack_page(format, reinterpret_cast<const std::byte*>(page.data()), packed.data());
      reference::unpack_page(format, packed.data(), reinterpret_cast<std::byte*>(back.data()));
      const double most = 10.0 / ((1 << p.bits) - 1) / 2 + 5e-3;  // five deviations either way
      for (size_t i = 0; i < page.size(); i++) ASSERT_NEAR(f16_to_f32(back[i]), f16_to_f32(page[i]), most) << i;
      std::vector<double> token(static_cast<size_t>(head_dim));
      reference::load_packed(format, packed.data(), 63, true, token.data());
      EXPECT_EQ(token.back(), f16_to_f32(back.back()));
    }
  }
}

TEST(KvCodec, BytesAreThoseOfAnotherProgram) {
  std::ifstream file(SPILLWAY_TEST_DATA "/kv_pages.bin", std::ios::binary);
  const auto read = [&](void* to, size_t bytes) {
    file.read(static_cast<char*>(to), static_cast<std::streamsize>(bytes));
    ASSERT_TRUE(file.good());
  };
  uint32_t head_dim = 0;
  read(&head_dim, sizeof head_dim);
  std::vector<std::byte> page(2 * kPageTokens * head_dim * 2);
  read(page.data(), page.size());
  for (const KvCodec codec : kPackers) {
    const KvFormat format{DType::f16, 1, static_cast<int>(head_dim), codec};
    uint32_t bytes = 0;
    read(&bytes, sizeof bytes);
    ASSERT_EQ(bytes, static_cast<uint32_t>(format.packed_page().bytes())) << info(codec).name;
    std::vector<std::byte> wanted(bytes), got(bytes), wanted_page(page.size()), got_page(page.size());
    read(wanted.data(), wanted.size());
    read(wanted_page.data(), wanted_page.size());
    reference::pack_page(format, page.data(), got.data());
    EXPECT_EQ(got, wanted) << info(codec).name;
    reference::unpack_page(format, wanted.data(), got_page.data());
    EXPECT_EQ(got_page, wanted_page) << info(codec).name;
  }
}

}  // namespace
}  // namespace spillway
