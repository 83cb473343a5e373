// Tests of what dmaflow::Allocator promises, for every allocator of plain memory.
#pragma once

#include "support.hpp"

#include <dmaflow/allocator.hpp>
#include <dmaflow/cpu_access.hpp>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <grp.h>

namespace dmaflow::test {

inline Request request_of(PixelFormat format, Size size, std::uint32_t count = 1) {
  Request request;
  request.format = format;
  request.size = size;
  request.count = count;
  return request;
}

inline std::uint64_t page_size() { return static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)); }

/// A number of buffers of this many bytes that is far more than the machine's memory. 0 if no request can be that
/// large, or if the kernel does not report how much memory it has.
inline std::uint32_t more_than_the_memory(std::uint64_t buffer_bytes) {
  constexpr std::uint32_t most = 64;  // in one request
  std::ifstream file("/proc/meminfo");
  std::string name;
  std::uint64_t kibibytes = 0;
  while (file >> name >> kibibytes && name != "MemTotal:") file.ignore(100, '\n');
  if (!file) return 0;
  const std::uint64_t count = kibibytes * 1024 * 5 / 4 / buffer_bytes + 1;
  return count <= most ? static_cast<std::uint32_t>(count) : 0;
}

/// Allocates buffers of every common format and checks them: the requested number, distinct, CLOEXEC, large enough,
/// with the requested layout.
inline void expect_buffers_of_common_formats(Allocator& allocator, const char* origin) {
  const LeakCheck leaks;
  for (const PixelFormat format : {formats::xrgb8888, formats::rgb565, formats::rgb888, formats::yuyv, formats::nv12,
                                   formats::yuv420, formats::p010, formats::r8}) {
    for (const bool separate : {false, true}) {
      Request request = request_of(format, {641, 361}, 3);
      request.constraints.separate_objects = separate;
      request.constraints.stride_alignment = 64;
      const auto buffers = must(allocator.allocate(request), "allocate");
      ASSERT_EQ(buffers.size(), 3U);
      std::set<ObjectId> ids;
      for (const Buffer& buffer : buffers) {
        EXPECT_EQ(buffer.layout().format, format);
        EXPECT_EQ(buffer.layout().size, request.size);
        EXPECT_TRUE(buffer.layout().modifier.is_linear());
        EXPECT_EQ(buffer.layout().planes[0].stride % 64, 0U);
        EXPECT_EQ(buffer.object_count(), separate ? format_info(format)->plane_count : 1U);
        EXPECT_EQ(buffer.origin(), origin);
        const auto needed = buffer.layout().object_sizes(request.constraints);
        for (std::uint32_t i = 0; i < buffer.object_count(); ++i) {
          EXPECT_GE(buffer.size(i), needed[i]);
          EXPECT_EQ(buffer.size(i) % page_size(), 0U);
          EXPECT_EQ(::fcntl(buffer.fd(i), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
          EXPECT_TRUE(ids.insert(buffer.id(i)).second) << "one dma-buf twice";
        }
      }
    }
  }
}

inline bool is_all_zero(const Buffer& buffer) {
  const auto access =
      must(CpuAccess::begin(buffer, CpuAccess::Mode::read_write, Deadline::after(std::chrono::seconds(5))),
           "CpuAccess::begin");
  const auto bytes = access.writable_object(0);
  const bool zero = std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{0}; });
  std::ranges::fill(bytes, std::byte{0xaa});  // dirty the pages for the next round
  return zero;
}

/// Memory is zeroed even if its pages were used before.
inline void expect_zeroed_memory(Allocator& allocator) {
  const LeakCheck leaks;
  for (int round = 0; round < 4; ++round) {
    for (const Buffer& buffer : must(allocator.allocate(request_of(formats::xrgb8888, {320, 240}, 4)), "allocate")) {
      EXPECT_TRUE(is_all_zero(buffer));
    }
  }
}

/// Sizes, counts, formats and modifiers that cannot be provided are refused with EINVAL, before anything is allocated.
inline void expect_refusals(Allocator& allocator) {
  const LeakCheck leaks;
  const CountCalls calls("ioctl");
  const auto refused = [&](const Request& request, std::string_view words) {
    const auto result = allocator.allocate(request);
    ASSERT_TRUE(fails_with(result, EINVAL));
    EXPECT_EQ(result.error().device(), allocator.name());
    EXPECT_TRUE(mentions(result.error(), words)) << result.error().message();
  };
  refused(request_of(formats::xrgb8888, {0, 0}), "0x0");
  refused(request_of(formats::xrgb8888, {16385, 16}), "16384");
  refused(request_of(formats::xrgb8888, {640, 480}, 0), "0 buffers");
  refused(request_of(formats::xrgb8888, {640, 480}, 1000), "1000 buffers");
  refused(request_of(PixelFormat::of('Z', 'Z', 'Z', 'Z'), {640, 480}), "ZZZZ");
  refused(request_of(formats::mjpeg, {640, 480}), "0 bytes");
  Request implicit = request_of(formats::xrgb8888, {640, 480});
  implicit.modifiers = {Modifier::implicit()};
  refused(implicit, "INVALID");
  Request contiguous = request_of(formats::xrgb8888, {640, 480});
  contiguous.constraints.contiguous = true;
  refused(contiguous, "contiguous");
  EXPECT_EQ(calls.calls(), 0U);
}

inline void expect_opaque_buffers(Allocator& allocator) {
  const LeakCheck leaks;
  Request request = request_of(formats::mjpeg, {1280, 720}, 2);
  request.opaque_bytes = 100'001;
  for (const Buffer& buffer : must(allocator.allocate(request), "allocate")) {
    EXPECT_EQ(buffer.layout().opaque_bytes, 100'001U);
    EXPECT_GE(buffer.size(0), 100'001U);
    EXPECT_EQ(buffer.size(0) % page_size(), 0U);
  }
}

/// Whichever system call fails, the error reports it and nothing is leaked. Exceptions: a failing close() may go
/// unnoticed, and so may the two calls that read the machine's available memory, because that check is only a
/// precaution.
inline void expect_no_leak_whichever_call_fails(const std::function<Result<std::vector<Buffer>>()>& allocate) {
  const LeakCheck leaks;
  std::size_t total = 0;
  std::size_t closes = 0;
  {
    const CountCalls calls;
    ASSERT_TRUE(allocate());
    total = calls.calls();
  }
  {
    const CountCalls calls("close");
    ASSERT_TRUE(allocate());
    closes = calls.calls();
  }
  ASSERT_GT(total, closes);
  std::size_t unseen = 0;
  for (std::size_t n = 1; n <= total; ++n) {
    const LeakCheck inner;
    const FailNth fail(n, EIO);
    {
      const auto result = allocate();
      if (result) {
        ++unseen;
      } else {
        EXPECT_EQ(result.error().code(), EIO) << result.error().message();
        EXPECT_FALSE(result.error().operation().empty());
      }
    }
    ASSERT_TRUE(fail.fired()) << "call " << n << " of " << total;
  }
  EXPECT_EQ(unseen, closes + 2) << "a failed call went unnoticed";
}

/// Runs @p body in a child process as user @p id with only the given groups, and returns the text that it returned.
inline std::string as_user(unsigned id, const std::vector<gid_t>& groups, const std::function<std::string()>& body) {
  int ends[2] = {-1, -1};
  if (::pipe2(ends, O_CLOEXEC) != 0) return "no pipe";
  const pid_t child = ::fork();
  if (child == 0) {
    std::string text = "cannot drop privileges";
    if (::setgroups(groups.size(), groups.data()) == 0 && ::setgid(id) == 0 && ::setuid(id) == 0) text = body();
    const ssize_t written = ::write(ends[1], text.data(), text.size());
    ::_exit(written == static_cast<ssize_t>(text.size()) ? 0 : 1);
  }
  ::close(ends[1]);
  std::string text;
  char part[512];
  for (ssize_t length = 0; (length = ::read(ends[0], part, sizeof part)) > 0;)
    text.append(part, static_cast<std::size_t>(length));
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  return status == 0 ? text : "the child failed: " + text;
}

}  // namespace dmaflow::test
