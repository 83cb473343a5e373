// FileSink: writes frames to a file, a pipe or standard output, uncompressed, for other tools to open.
//
//     auto file = dmaflow::FileSink::create("clip.y4m");                  // ffplay clip.y4m
//     auto file = dmaflow::FileSink::create("clip.yuv");                  // clip.yuv.json says how to open it
//     auto file = dmaflow::FileSink::create("-");                         // my_program | ffplay -
//
// The CPU copies the pixels to the file, in the sink's own thread (ThreadSink): a slow disk delays no other branch.
// Policy::drop_when_full suits a camera, Policy::wait_when_full a source that can wait.
#pragma once

#include <dmaflow/device.hpp>

#include <cstdint>
#include <memory>
#include <string>

namespace dmaflow {

struct FileSinkOptions {
  enum class Container : std::uint8_t {
    by_name,  ///< y4m for a name that ends in ".y4m", and for "-"; else raw
    /// YUV4MPEG2: a header, then each frame as planes Y, Cb, Cr. Chroma pairs (NV12) and packed formats (YUYV) are
    /// separated for it. 8 to 16 bits; grey, 4:1:1, 4:2:0, 4:2:2 and 4:4:4; no RGB.
    y4m,
    /// The pixels unchanged, row after row without padding, plane after plane. FILE.json, next to a regular file,
    /// describes them and has an ffplay command that plays them. Compressed frames (MJPEG, H264) one after another.
    raw,
  };
  Container container = Container::by_name;
  std::uint32_t queue = 4;  ///< frames that may wait to be written: 1 to 32
};

/// A sink for Pipeline::connect(). All calls belong to the loop's thread, except written().
///
/// It writes the visible rectangle of each frame (FrameInfo::visible). Its left and top edge are rounded down to a
/// whole block: to an even column for 4:2:2 and 4:2:0, to an even row for 4:2:0 chroma. An uncompressed file holds
/// pictures of one size: that of the first frame.
///
/// The file is created at the first start(), which deletes what it held. Once it has a frame, later starts
/// (Pipeline::run() again, a stream that is negotiated again) append to it. If writing fails within a frame, a regular
/// file is truncated to its last whole frame. Nothing is synchronised to the disk; a program that needs that calls
/// fsync() on the file after stop().
///
/// If the reader of a pipe exits, the error is EPIPE: the writing thread blocks SIGPIPE, so the program need not ignore
/// it. stop() ends a write to a pipe whose reader does not read; that frame is then incomplete. If a write to a file
/// system or a terminal hangs, stop() waits for it, because the kernel cannot end it.
class FileSink final : public Sink {
 public:
  /// @p path: "-" is standard output. Errors: EINVAL (no path; `queue` out of range), EMFILE.
  static Result<std::unique_ptr<FileSink>> create(std::string path, FileSinkOptions options = {});
  /// Stops it.
  ~FileSink() override;

  /// The number of frames written completely, over all starts. From any thread.
  [[nodiscard]] std::uint64_t written() const noexcept;

  /// The path, or "standard output".
  [[nodiscard]] std::string_view name() const noexcept override;
  /// Errors: EINVAL (a format that the container does not hold, with those that it does; a modifier other than LINEAR;
  /// another size, format or rate than the file has already).
  [[nodiscard]] Result<void> check_input(const StreamConfig& config) override;
  /// Errors: those of check(); EBUSY (it is started).
  [[nodiscard]] Result<void> set_input(const StreamConfig& config) override;
  /// Cached memory, because it reads every byte.
  [[nodiscard]] Needs needs() const override;
  /// Maps the buffer to see whether the CPU can read it. Errors: those of CpuMap::create().
  [[nodiscard]] Result<void> import(const Buffer& buffer) override;
  [[nodiscard]] std::uint32_t max_held() const noexcept override;
  /// Frames that are not in the file: as for ThreadSink.
  [[nodiscard]] std::uint64_t dropped() const noexcept override;

  [[nodiscard]] int poll_fd() const noexcept override;
  [[nodiscard]] short poll_events() const noexcept override;
  /// Errors, once and then from every call until stop(): those of write() (ENOSPC, EPIPE, EFBIG, EIO), those of
  /// CpuAccess::begin(); EINVAL (a frame whose picture has another size than the file's).
  [[nodiscard]] Result<void> dispatch(short revents) override;

  /// Opens the file, maps the buffers and starts the thread. Errors: those of open() (ENOENT, EACCES, ENXIO: nobody
  /// reads the pipe yet), of CpuMap::create() and of ThreadSink::start(). After an error nothing is open.
  [[nodiscard]] Result<void> start(std::span<const Buffer> buffers) override;
  [[nodiscard]] Result<void> add_buffer(const Buffer& buffer) override;
  void remove_buffer(const Buffer& buffer) noexcept override;
  [[nodiscard]] bool ready() const noexcept override;
  [[nodiscard]] Result<Frame> accept(Frame frame) override;
  [[nodiscard]] Result<void> flush() override;
  /// None: no frames are presented.
  [[nodiscard]] std::size_t take_presented(std::span<Presentation> /*out*/) noexcept override { return 0; }
  /// Waits until every frame accepted is in the file. Errors: ETIMEDOUT, ECANCELED, those of dispatch().
  Result<void> drain(Deadline deadline, const Cancel* cancel = nullptr) override;
  /// Drops the waiting frames, ends the thread, closes the file and writes FILE.json. Errors: those of dispatch(), if
  /// no other call has returned them yet; those of writing FILE.json.
  Result<void> stop() noexcept override;

 private:
  struct Impl;
  explicit FileSink(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dmaflow
