#include "file_writer.hpp"

#include "cancellable.hpp"
#include "sys/sys.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace dmaflow {
namespace {

/// What the user can do about the error.
const char* advice(int error) noexcept {
  switch (error) {
    case ENOSPC:
      return "make room, or write to another file system";
    case EPIPE:
      return "the program that read from it has ended";
    case EFBIG:
      return "the limit of a file's size: see ulimit -f, and the file system's own";
    default:
      return "";
  }
}

/// Standard output. A pipe is opened again to get its own file description, so that O_NONBLOCK affects nobody else.
int open_stdout() noexcept {
  struct stat status{};
  if (sys::fstat(STDOUT_FILENO, &status) == 0 && S_ISFIFO(status.st_mode)) {
    const int own = sys::open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK);
    if (own >= 0) return own;
  }
  return sys::dup(STDOUT_FILENO);
}

}  // namespace

Result<void> FileWriter::open(const std::string& path, bool anew) {
  const bool is_stdout = path == "-";
  path_ = is_stdout ? "standard output" : path;
  const int flags = O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK | O_NOCTTY | (anew ? O_TRUNC : 0);
  const int opened = is_stdout ? open_stdout() : sys::open(path.c_str(), flags, 0666);
  if (opened < 0) {
    return std::unexpected(
        Error::os(-opened, "open", path_)
            .detail("%s", opened == -ENXIO ? "nobody reads this pipe yet: start the reader first" : ""));
  }
  file_ = Fd::adopt(opened);
  struct stat status{};
  is_regular_ = !is_stdout && sys::fstat(opened, &status) == 0 && S_ISREG(status.st_mode);
  written_ = whole_ = is_regular_ ? static_cast<std::uint64_t>(status.st_size) : 0;
  filled_ = 0;
  buffer_.resize(most_room);
  return {};
}

Result<std::span<std::byte>> FileWriter::room(std::size_t bytes, const Cancel* stop) {
  if (bytes > buffer_.size() - filled_) {
    if (auto flushed = flush(stop); !flushed) return std::unexpected(flushed.error());
  }
  const auto space = std::span(buffer_).subspan(filled_, bytes);
  filled_ += bytes;
  return space;
}

Result<void> FileWriter::put(std::span<const std::byte> bytes, const Cancel* stop) {
  if (bytes.size() > buffer_.size() / 2) {
    if (auto flushed = flush(stop); !flushed) return flushed;
    return write(bytes, stop);
  }
  auto space = room(bytes.size(), stop);
  if (!space) return std::unexpected(space.error());
  std::ranges::copy(bytes, space->begin());
  return {};
}

Result<void> FileWriter::put(const std::string& text, const Cancel* stop) {
  return put(std::as_bytes(std::span(text)), stop);
}

Result<void> FileWriter::flush(const Cancel* stop) {
  const auto bytes = std::span<const std::byte>(buffer_).first(filled_);
  filled_ = 0;
  return write(bytes, stop);
}

Result<void> FileWriter::write(std::span<const std::byte> bytes, const Cancel* stop) {
  while (!bytes.empty()) {
    const ssize_t done = sys::write(file_.get(), bytes.data(), bytes.size());
    if (done > 0) {
      written_ += static_cast<std::uint64_t>(done);
      bytes = bytes.subspan(static_cast<std::size_t>(done));
      continue;
    }
    const int error = done == 0 ? EIO : static_cast<int>(-done);
    if (error != EAGAIN) return std::unexpected(Error::os(error, "write", path_).detail("%s", advice(error)));
    const int ready = detail::wait(file_.get(), POLLOUT, Deadline::at(Deadline::Clock::time_point::max()), stop);
    if (ready < 0) return std::unexpected(Error::os(-ready, "write", path_).detail("its reader reads nothing"));
  }
  return {};
}

void FileWriter::undo() noexcept {
  filled_ = 0;
  if (is_regular_ && written_ != whole_) sys::ftruncate(file_.get(), static_cast<off_t>(whole_));
  written_ = whole_;
}

}  // namespace dmaflow
