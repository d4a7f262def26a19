// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/decompress.h"

#include <bzlib.h>
#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"
#include "cloister/base/status_macros.h"
#include "cloister/boot/byte_buffer.h"

namespace cloister::boot {
namespace {

using Bytes = absl::Span<const uint8_t>;

constexpr uint8_t kLz4LegacyMagic[] = {0x02, 0x21, 0x4c, 0x18};
// What one block of the LZ4 legacy format unpacks to at most.
constexpr size_t kLz4LegacyBlock = size_t{8} << 20;
// The kernel's xz and lzma settings use dictionaries of up to 128 MiB.
constexpr uint64_t kLzmaMemory = uint64_t{256} << 20;
// zlib and bzip2 count bytes in 32 bits.
constexpr uint64_t kMaximumSize = uint64_t{1} << 31;

struct Magic {
  Compression compression;
  std::string bytes;
};

bool StartsWith(Bytes bytes, const std::string& magic) {
  return bytes.size() >= magic.size() &&
         std::memcmp(bytes.data(), magic.data(), magic.size()) == 0;
}

absl::Status Corrupt(absl::string_view detail) {
  return absl::InvalidArgumentError(
      absl::StrCat("corrupt or truncated data (", detail, ")"));
}

absl::Status WrongSize(uint64_t produced, uint64_t expected) {
  return absl::InvalidArgumentError(
      absl::StrCat("unpacks to ", produced, " bytes instead of ", expected));
}

// Each function below unpacks `input` into `output` and returns how much it
// wrote; input that would give more, or that is left over, is an error.

absl::StatusOr<uint64_t> Gunzip(Bytes input, ByteBuffer* output) {
  z_stream stream = {};
  if (inflateInit2(&stream, 16 + MAX_WBITS) != Z_OK) {
    return absl::ResourceExhaustedError("cannot set up zlib");
  }
  absl::Cleanup end = [&] { inflateEnd(&stream); };
  stream.next_in = const_cast<Bytef*>(input.data());
  stream.avail_in = static_cast<uInt>(input.size());
  stream.next_out = output->data();
  stream.avail_out = static_cast<uInt>(output->size());
  int result = inflate(&stream, Z_FINISH);
  if (result != Z_STREAM_END) {
    return Corrupt(stream.msg != nullptr ? stream.msg : "no end of stream");
  }
  if (stream.avail_in != 0) return Corrupt("data after the end of stream");
  return output->size() - stream.avail_out;
}

absl::StatusOr<uint64_t> Bunzip2(Bytes input, ByteBuffer* output) {
  bz_stream stream = {};
  if (BZ2_bzDecompressInit(&stream, /*verbosity=*/0, /*small=*/0) != BZ_OK) {
    return absl::ResourceExhaustedError("cannot set up bzip2");
  }
  absl::Cleanup end = [&] { BZ2_bzDecompressEnd(&stream); };
  stream.next_in = reinterpret_cast<char*>(const_cast<uint8_t*>(input.data()));
  stream.avail_in = static_cast<unsigned>(input.size());
  stream.next_out = reinterpret_cast<char*>(output->data());
  stream.avail_out = static_cast<unsigned>(output->size());
  int result = BZ2_bzDecompress(&stream);
  if (result != BZ_STREAM_END) {
    return Corrupt(absl::StrCat("bzip2 result ", result));
  }
  if (stream.avail_in != 0) return Corrupt("data after the end of stream");
  return output->size() - stream.avail_out;
}

// For xz and lzma, whose set-up function is `init`.
template <typename Init>
absl::StatusOr<uint64_t> Unlzma(Init init, Bytes input, ByteBuffer* output) {
  lzma_stream stream = LZMA_STREAM_INIT;
  if (init(&stream) != LZMA_OK) {
    return absl::ResourceExhaustedError("cannot set up liblzma");
  }
  absl::Cleanup end = [&] { lzma_end(&stream); };
  stream.next_in = input.data();
  stream.avail_in = input.size();
  stream.next_out = output->data();
  stream.avail_out = output->size();
  lzma_ret result = lzma_code(&stream, LZMA_FINISH);
  if (result != LZMA_STREAM_END) {
    return Corrupt(absl::StrCat("liblzma result ", static_cast<int>(result)));
  }
  if (stream.avail_in != 0) return Corrupt("data after the end of stream");
  return output->size() - stream.avail_out;
}

// Blocks of a 32-bit length and as many bytes for LZ4_decompress_safe; the
// magic number may come again between them.
absl::StatusOr<uint64_t> Unlz4(Bytes input, ByteBuffer* output) {
  uint64_t written = 0;
  while (!input.empty()) {
    if (input.size() < 4) return Corrupt("partial block length");
    if (std::memcmp(input.data(), kLz4LegacyMagic, 4) == 0) {
      input.remove_prefix(4);
      continue;
    }
    uint32_t length = base::LoadLe<uint32_t>(input.data());
    input.remove_prefix(4);
    if (length == 0 || length > input.size()) {
      return Corrupt(absl::StrCat("block of ", length, " bytes where ",
                                  input.size(), " are left"));
    }
    uint64_t room =
        std::min<uint64_t>(kLz4LegacyBlock, output->size() - written);
    int produced =
        LZ4_decompress_safe(reinterpret_cast<const char*>(input.data()),
                            reinterpret_cast<char*>(output->data() + written),
                            static_cast<int>(length), static_cast<int>(room));
    if (produced < 0) return Corrupt("bad block");
    written += static_cast<uint64_t>(produced);
    input.remove_prefix(length);
  }
  return written;
}

absl::StatusOr<uint64_t> Unzstd(Bytes input, ByteBuffer* output) {
  size_t result = ZSTD_decompress(output->data(), output->size(), input.data(),
                                  input.size());
  if (ZSTD_isError(result)) return Corrupt(ZSTD_getErrorName(result));
  return result;
}

absl::StatusOr<uint64_t> Run(Compression compression, Bytes input,
                             ByteBuffer* output) {
  switch (compression) {
    case Compression::kGzip:
      return Gunzip(input, output);
    case Compression::kBzip2:
      return Bunzip2(input, output);
    case Compression::kLzma:
      return Unlzma(
          [](lzma_stream* s) { return lzma_alone_decoder(s, kLzmaMemory); },
          input, output);
    case Compression::kXz:
      return Unlzma(
          [](lzma_stream* s) { return lzma_stream_decoder(s, kLzmaMemory, 0); },
          input, output);
    case Compression::kLz4:
      return Unlz4(input, output);
    case Compression::kZstd:
      return Unzstd(input, output);
    case Compression::kLzo:
      break;
  }
  return absl::UnimplementedError(absl::StrCat(
      CompressionName(compression), " compression is not supported"));
}

}  // namespace

absl::string_view CompressionName(Compression compression) {
  switch (compression) {
    case Compression::kGzip:
      return "gzip";
    case Compression::kBzip2:
      return "bzip2";
    case Compression::kLzma:
      return "lzma";
    case Compression::kXz:
      return "xz";
    case Compression::kLzo:
      return "LZO";
    case Compression::kLz4:
      return "LZ4";
    case Compression::kZstd:
      return "zstd";
  }
  return "unknown";
}

std::optional<Compression> DetectCompression(Bytes bytes) {
  const Magic kMagics[] = {
      {Compression::kGzip, std::string("\x1f\x8b\x08", 3)},
      {Compression::kBzip2, "BZh"},
      {Compression::kLzma, std::string("\x5d\x00\x00", 3)},
      {Compression::kXz, std::string("\xfd\x37zXZ\x00", 6)},
      {Compression::kLzo, "\x89LZO"},
      {Compression::kLz4, "\x02\x21\x4c\x18"},
      {Compression::kZstd, "\x28\xb5\x2f\xfd"},
  };
  for (const Magic& magic : kMagics) {
    if (StartsWith(bytes, magic.bytes)) return magic.compression;
  }
  return std::nullopt;
}

absl::StatusOr<SharedBytes> Decompress(Compression compression, Bytes input,
                                       uint64_t size) {
  if (size == 0 || size > kMaximumSize || input.size() > kMaximumSize) {
    return absl::InvalidArgumentError(
        absl::StrCat("sizes of ", input.size(), " and, unpacked, ", size,
                     " bytes are not acceptable"));
  }
  ASSIGN_OR_RETURN(ByteBuffer output, ByteBuffer::Allocate(size));
  ASSIGN_OR_RETURN(uint64_t produced, Run(compression, input, &output));
  if (produced != size) return WrongSize(produced, size);
  return std::move(output).Share();
}

}  // namespace cloister::boot
