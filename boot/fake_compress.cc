// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/fake_compress.h"

#include <bzlib.h>
#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <cstdlib>
#include <cstring>

#include "cloister/base/bytes.h"

namespace cloister::boot {
namespace {

using Bytes = absl::Span<const uint8_t>;

void Require(bool condition) {
  if (!condition) std::abort();
}

std::vector<uint8_t> Gzip(Bytes bytes) {
  z_stream stream = {};
  Require(deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 9,
                       Z_DEFAULT_STRATEGY) == Z_OK);
  std::vector<uint8_t> out(deflateBound(&stream, bytes.size()) + 64);
  stream.next_in = const_cast<Bytef*>(bytes.data());
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = out.data();
  stream.avail_out = static_cast<uInt>(out.size());
  Require(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(out.size() - stream.avail_out);
  deflateEnd(&stream);
  return out;
}

std::vector<uint8_t> Bzip2(Bytes bytes) {
  std::vector<uint8_t> out(bytes.size() * 2 + 1024);
  unsigned length = static_cast<unsigned>(out.size());
  Require(BZ2_bzBuffToBuffCompress(
              reinterpret_cast<char*>(out.data()), &length,
              reinterpret_cast<char*>(const_cast<uint8_t*>(bytes.data())),
              static_cast<unsigned>(bytes.size()), 9, 0, 0) == BZ_OK);
  out.resize(length);
  return out;
}

std::vector<uint8_t> Lzma(bool alone, Bytes bytes) {
  lzma_options_lzma options;
  Require(!lzma_lzma_preset(&options, 6));
  lzma_filter filters[] = {{LZMA_FILTER_X86, nullptr},
                           {LZMA_FILTER_LZMA2, &options},
                           {LZMA_VLI_UNKNOWN, nullptr}};
  lzma_stream stream = LZMA_STREAM_INIT;
  lzma_ret ready =
      alone ? lzma_alone_encoder(&stream, &options)
            : lzma_stream_encoder(&stream, filters, LZMA_CHECK_CRC32);
  Require(ready == LZMA_OK);
  std::vector<uint8_t> out(bytes.size() * 2 + 1024);
  stream.next_in = bytes.data();
  stream.avail_in = bytes.size();
  stream.next_out = out.data();
  stream.avail_out = out.size();
  Require(lzma_code(&stream, LZMA_FINISH) == LZMA_STREAM_END);
  out.resize(out.size() - stream.avail_out);
  lzma_end(&stream);
  return out;
}

std::vector<uint8_t> Lz4Legacy(Bytes bytes) {
  constexpr size_t kBlock = size_t{8} << 20;
  std::vector<uint8_t> out = {0x02, 0x21, 0x4c, 0x18};
  while (!bytes.empty()) {
    Bytes block = bytes.subspan(0, kBlock);
    int bound = LZ4_compressBound(static_cast<int>(block.size()));
    size_t at = out.size();
    out.resize(at + 4 + static_cast<size_t>(bound));
    int length =
        LZ4_compress_default(reinterpret_cast<const char*>(block.data()),
                             reinterpret_cast<char*>(out.data() + at + 4),
                             static_cast<int>(block.size()), bound);
    Require(length > 0);
    base::StoreLe<uint32_t>(out.data() + at, static_cast<uint32_t>(length));
    out.resize(at + 4 + static_cast<size_t>(length));
    bytes.remove_prefix(block.size());
  }
  return out;
}

std::vector<uint8_t> Zstd(Bytes bytes) {
  std::vector<uint8_t> out(ZSTD_compressBound(bytes.size()));
  size_t length =
      ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), 19);
  Require(!ZSTD_isError(length));
  out.resize(length);
  return out;
}

}  // namespace

std::vector<uint8_t> Compress(Compression compression, Bytes bytes) {
  switch (compression) {
    case Compression::kGzip:
      return Gzip(bytes);
    case Compression::kBzip2:
      return Bzip2(bytes);
    case Compression::kLzma:
      return Lzma(/*alone=*/true, bytes);
    case Compression::kXz:
      return Lzma(/*alone=*/false, bytes);
    case Compression::kLz4:
      return Lz4Legacy(bytes);
    case Compression::kZstd:
      return Zstd(bytes);
    case Compression::kLzo:
      break;
  }
  std::abort();
}

}  // namespace cloister::boot
