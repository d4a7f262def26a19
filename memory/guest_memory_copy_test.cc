// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/guest_memory_copy.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace cloister::memory::guest_copy {
namespace {

struct Piece {
  size_t offset;
  size_t size;
  bool operator==(const Piece&) const = default;
};

std::vector<Piece> Pieces(uintptr_t address, size_t size) {
  std::vector<Piece> pieces;
  ForEachPiece(reinterpret_cast<const uint8_t*>(address), size,
               [&](size_t offset, auto type) {
                 pieces.push_back({offset, sizeof(type)});
               });
  return pieces;
}

TEST(GuestMemoryCopyTest, PiecesAreAlignedAndCoverEachByteOnce) {
  for (uintptr_t address = 0x1000; address < 0x1010; ++address) {
    for (size_t size = 0; size < 70; ++size) {
      size_t next = 0;
      for (const Piece& piece : Pieces(address, size)) {
        ASSERT_EQ(piece.offset, next);
        ASSERT_EQ((address + piece.offset) % piece.size, 0u);
        next += piece.size;
      }
      ASSERT_EQ(next, size);
    }
  }
}

// Whatever is copied, an aligned field inside is not split.
TEST(GuestMemoryCopyTest, AlignedFieldsLieInOnePiece) {
  for (uintptr_t address = 0x1000; address < 0x1008; ++address) {
    for (size_t size = 1; size < 40; ++size) {
      std::vector<Piece> pieces = Pieces(address, size);
      for (size_t field : {2, 4, 8}) {
        for (size_t at = 0; at + field <= size; ++at) {
          if ((address + at) % field != 0) continue;
          bool whole = std::any_of(
              pieces.begin(), pieces.end(), [&](const Piece& piece) {
                return piece.offset <= at &&
                       at + field <= piece.offset + piece.size;
              });
          ASSERT_TRUE(whole) << address << " " << size << " " << at;
        }
      }
    }
  }
}

TEST(GuestMemoryCopyTest, CopiesAndFillsExactly) {
  // Both sides of where string instructions take over.
  for (size_t size :
       {0ul, 1ul, 7ul, 64ul, kLarge - 1, kLarge, 3 * kLarge + 5}) {
    for (size_t shift = 0; shift < 9; ++shift) {
      std::vector<uint8_t> source(size), target(size + 32, 0xee);
      for (size_t i = 0; i < size; ++i) source[i] = static_cast<uint8_t>(i * 7);
      ToGuest(target.data() + shift, source.data(), size);
      ASSERT_TRUE(
          std::equal(source.begin(), source.end(), target.begin() + shift));
      ASSERT_EQ(std::count(target.begin(), target.begin() + shift, 0xee),
                static_cast<ptrdiff_t>(shift));
      ASSERT_EQ(target[shift + size], 0xee);

      std::vector<uint8_t> back(size + 1, 0xdd);
      FromGuest(back.data(), target.data() + shift, size);
      ASSERT_TRUE(std::equal(source.begin(), source.end(), back.begin()));
      ASSERT_EQ(back[size], 0xdd);

      FillGuest(target.data() + shift, 0x5a, size);
      ASSERT_EQ(std::count(target.begin(), target.end(), 0x5a),
                static_cast<ptrdiff_t>(size));
      ASSERT_EQ(target[shift + size], 0xee);
    }
  }
}

// An aligned word that someone else writes arrives whole; and, under
// ThreadSanitizer, without a report.
TEST(GuestMemoryCopyTest, RacingWordsDoNotTear) {
  alignas(8) uint8_t shared[16] = {};
  std::atomic<bool> done{false};
  std::thread writer([&] {
    uint8_t from[16];
    for (int i = 0; !done.load(); ++i) {
      std::fill_n(from, 16, static_cast<uint8_t>(i));
      ToGuest(shared, from, sizeof(from));
    }
  });
  int torn = 0;
  for (int i = 0; i < 100000; ++i) {
    uint8_t seen[16];
    FromGuest(seen, shared, sizeof(seen));
    if (std::count(seen, seen + 8, seen[0]) != 8) ++torn;
    if (std::count(seen + 8, seen + 16, seen[8]) != 8) ++torn;
  }
  done.store(true);
  writer.join();
  EXPECT_EQ(torn, 0);
}

}  // namespace
}  // namespace cloister::memory::guest_copy
