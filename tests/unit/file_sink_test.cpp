// FileSink: the contents of the files, byte by byte, and the result of each error.
#include "pipeline_support.hpp"

#include <dmaflow/app_source.hpp>
#include <dmaflow/file_sink.hpp>
#include <dmaflow/testing/conformance.hpp>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

using Container = FileSinkOptions::Container;
using Json = nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::seconds;

/// The value that a test writes to a byte of a plane's row, and so expects in the file.
char pixel(std::uint32_t plane, std::size_t y, std::size_t byte) {
  return static_cast<char>(static_cast<unsigned char>(1 + plane * 101 + y * 13 + byte * 7));
}

/// Fills a buffer of memfds: pixels with pixel(), all other bytes with 0xee.
void paint(const Buffer& buffer) {
  const Layout& layout = buffer.layout();
  for (std::uint32_t object = 0; object < buffer.object_count(); ++object) {
    std::string bytes(static_cast<std::size_t>(buffer.size(object)), '\xee');
    for (std::uint32_t p = 0; p < layout.plane_count; ++p) {
      if (layout.planes[p].object != object) continue;
      for (std::size_t y = 0; y < layout.rows(p); ++y) {
        for (std::size_t i = 0; i < layout.row_bytes(p); ++i) {
          bytes[layout.planes[p].offset + y * layout.planes[p].stride + i] = pixel(p, y, i);
        }
      }
    }
    ASSERT_EQ(::pwrite(buffer.fd(object), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  }
}

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class FileSinkTest : public PipelineFixture {
 protected:
  void SetUp() override {
    char name[] = "/tmp/dmaflow-file-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    directory = name;
  }
  void TearDown() override {
    PipelineFixture::TearDown();
    sink.reset();
    std::filesystem::remove_all(directory);
  }
  [[nodiscard]] std::string path(std::string_view name) const { return directory + "/" + std::string(name); }

  void start(std::string to, StreamConfig config, FileSinkOptions options = {}) {
    heap.own.stride_alignment = 64;  // so that rows have padding
    sink = must(FileSink::create(std::move(to), options));
    app = must(AppSource::create({config}, {.filling = 2}));
    must(pipeline.connect(*app, *sink, "file", {.policy = Policy::wait_when_full}));
    PipelineFixture::start();
  }
  [[nodiscard]] Frame next() {
    const auto give_up = Deadline::after(seconds(20));
    while (true) {
      auto frame = app->acquire();
      if (frame) {
        if (frame->buffer().layout().opaque_bytes == 0) paint(frame->buffer());
        return std::move(*frame);
      }
      EXPECT_GT(give_up.remaining(), Deadline::Clock::duration::zero());
      must(pipeline.step(Deadline::after(milliseconds(10))));
    }
  }
  void push(const FrameInfo& info = {}) { must(app->push(next(), info)); }
  /// Runs until all frames that were pushed are in the file.
  void finish() {
    app->end();
    const auto give_up = Deadline::after(seconds(20));
    while (!pipeline.ended() && give_up.remaining() > Deadline::Clock::duration::zero()) must(pipeline.step(give_up));
    must(pipeline.stop(give_up));
  }
  /// Steps until the sink fails, and returns its error.
  [[nodiscard]] Result<bool> failure() {
    const auto give_up = Deadline::after(seconds(20));
    Result<bool> stepped = true;
    while (stepped && give_up.remaining() > Deadline::Clock::duration::zero()) {
      stepped = pipeline.step(Deadline::after(milliseconds(50)));
    }
    return stepped;
  }
  /// The rows of plane @p p from byte @p left and row @p top on, as they are in a raw file.
  static std::string rows(std::uint32_t p, std::size_t left, std::size_t bytes, std::size_t top, std::size_t count,
                          std::size_t step = 1) {
    std::string text;
    for (std::size_t y = top; y < top + count; ++y) {
      for (std::size_t i = 0; i < bytes; ++i) text += pixel(p, y, left + i * step);
    }
    return text;
  }
  [[nodiscard]] Json description(const std::string& of) const {
    const auto text = contents(of + ".json");
    auto json = Json::parse(text, nullptr, false);
    EXPECT_FALSE(json.is_discarded()) << text;
    return json;
  }

  std::string directory;
  std::unique_ptr<AppSource> app;
  std::unique_ptr<FileSink> sink;
};

StreamConfig config_of(PixelFormat format, Size size, Interval interval = {1, 25}) {
  StreamConfig config = small_config(format, size);
  config.interval = interval;
  return config;
}

// --- y4m -------------------------------------------------------------------------------------------------------------

TEST_F(FileSinkTest, Nv12BecomesPlanarInY4m) {
  start(path("clip.y4m"), config_of(formats::nv12, {20, 6}));
  push();
  push();
  finish();
  const std::string frame = "FRAME\n" + rows(0, 0, 20, 0, 6) + rows(1, 0, 10, 0, 3, 2) + rows(1, 1, 10, 0, 3, 2);
  EXPECT_EQ(contents(path("clip.y4m")), "YUV4MPEG2 W20 H6 F25:1 Ip A0:0 C420mpeg2\n" + frame + frame);
  EXPECT_EQ(sink->written(), 2U);
  EXPECT_FALSE(std::filesystem::exists(path("clip.y4m.json")));
}

TEST_F(FileSinkTest, OddSizesAreRoundedUpInChroma) {
  start(path("clip.y4m"), config_of(formats::nv21, {21, 7}, {}));
  push();
  finish();
  EXPECT_EQ(contents(path("clip.y4m")), "YUV4MPEG2 W21 H7 F30:1 Ip A0:0 C420mpeg2\nFRAME\n" + rows(0, 0, 21, 0, 7) +
                                            rows(1, 1, 11, 0, 4, 2) + rows(1, 0, 11, 0, 4, 2));
}

TEST_F(FileSinkTest, PlanarAndPackedFormatsBecomeTheirY4m) {
  struct Case {
    PixelFormat format;
    std::string colour_space;
    std::string pixels;
  };
  const auto of = [](const char(&c)[5]) { return PixelFormat::of(c[0], c[1], c[2], c[3]); };
  const std::vector<Case> cases{
      {formats::yuv420, "420mpeg2", rows(0, 0, 10, 0, 4) + rows(1, 0, 5, 0, 2) + rows(2, 0, 5, 0, 2)},
      {formats::yvu420, "420mpeg2", rows(0, 0, 10, 0, 4) + rows(2, 0, 5, 0, 2) + rows(1, 0, 5, 0, 2)},
      {formats::nv16, "422", rows(0, 0, 10, 0, 4) + rows(1, 0, 5, 0, 4, 2) + rows(1, 1, 5, 0, 4, 2)},
      {formats::yuyv, "422", rows(0, 0, 10, 0, 4, 2) + rows(0, 1, 5, 0, 4, 4) + rows(0, 3, 5, 0, 4, 4)},
      {formats::uyvy, "422", rows(0, 1, 10, 0, 4, 2) + rows(0, 0, 5, 0, 4, 4) + rows(0, 2, 5, 0, 4, 4)},
      {of("NV24"), "444", rows(0, 0, 10, 0, 4) + rows(1, 0, 10, 0, 4, 2) + rows(1, 1, 10, 0, 4, 2)},
      {of("YU24"), "444", rows(0, 0, 10, 0, 4) + rows(1, 0, 10, 0, 4) + rows(2, 0, 10, 0, 4)},
      {of("XYUV"), "444", rows(0, 2, 10, 0, 4, 4) + rows(0, 1, 10, 0, 4, 4) + rows(0, 0, 10, 0, 4, 4)},
      {formats::r8, "mono", rows(0, 0, 10, 0, 4)},
  };
  heap.own.stride_alignment = 64;
  for (const Case& one : cases) {
    const auto file = path(one.format.name() + ".y4m");
    Pipeline own;
    sink = must(FileSink::create(file));
    FakeSource source{{config_of(one.format, {10, 4})}};
    must(own.connect(source, *sink, "file", {.policy = Policy::wait_when_full}));
    own.offer(heap);
    must(own.start());
    for (const Buffer& buffer : source.holds()->buffers()) paint(buffer);
    ASSERT_TRUE(source.expose());
    must(own.step(Deadline::after(seconds(20))));
    must(own.stop(Deadline::after(seconds(20))));
    EXPECT_EQ(contents(file), "YUV4MPEG2 W10 H4 F25:1 Ip A0:0 C" + one.colour_space + "\nFRAME\n" + one.pixels)
        << one.format.name();
  }
}

TEST_F(FileSinkTest, TenBitsOfP010AreInTheLowBits) {
  start(path("clip.y4m"), config_of(formats::p010, {4, 2}));
  Frame frame = next();
  const Layout& layout = frame.buffer().layout();
  const auto word = [&](std::uint32_t plane, std::size_t y, std::size_t i, unsigned value) {
    const std::array<unsigned char, 2> bytes{static_cast<unsigned char>(value << 6U),
                                             static_cast<unsigned char>(value >> 2U)};
    const auto at = layout.planes[plane].offset + y * layout.planes[plane].stride + 2 * i;
    ASSERT_EQ(::pwrite(frame.buffer().fd(0), bytes.data(), 2, static_cast<off_t>(at)), 2);
  };
  std::string expected;
  const auto low = [&](unsigned value) {
    expected += static_cast<char>(value & 0xffU);
    expected += static_cast<char>(value >> 8U);
  };
  for (unsigned i = 0; i < 8; ++i) {
    word(0, i / 4, i % 4, 64 + i * 100);
    low(64 + i * 100);
  }
  for (unsigned i = 0; i < 4; ++i) word(1, 0, i, 1023 - i);
  for (const unsigned i : {0U, 2U, 1U, 3U}) low(1023 - i);
  must(app->push(std::move(frame)));
  finish();
  EXPECT_EQ(contents(path("clip.y4m")), "YUV4MPEG2 W4 H2 F25:1 Ip A0:0 C420p10\nFRAME\n" + expected);
}

TEST_F(FileSinkTest, RateAndRangeAreInTheHeader) {
  StreamConfig config = config_of(formats::yuyv, {4, 2}, {.numerator = 2002, .denominator = 60000});
  config.color.range = ColorInfo::Range::full;
  start(path("clip.y4m"), config);
  push();
  finish();
  EXPECT_TRUE(contents(path("clip.y4m")).starts_with("YUV4MPEG2 W4 H2 F30000:1001 Ip A0:0 C422 XCOLORRANGE=FULL\n"));
}

TEST_F(FileSinkTest, OnlyTheVisiblePartIsWritten) {
  start(path("clip.y4m"), config_of(formats::nv12, {20, 10}));
  push({.visible = {.x = 4, .y = 2, .width = 8, .height = 4}});
  finish();
  EXPECT_EQ(contents(path("clip.y4m")), "YUV4MPEG2 W8 H4 F25:1 Ip A0:0 C420mpeg2\nFRAME\n" + rows(0, 4, 8, 2, 4) +
                                            rows(1, 4, 4, 1, 2, 2) + rows(1, 5, 4, 1, 2, 2));
}

TEST_F(FileSinkTest, FormatsThatY4mDoesNotHoldAreRefusedWithThoseItDoes) {
  sink = must(FileSink::create(path("clip.y4m")));
  const auto refused = sink->check_input(small_config(formats::xrgb8888));
  ASSERT_TRUE(fails_with(refused, EINVAL));
  EXPECT_TRUE(mentions(refused.error(), "XRGB8888") && mentions(refused.error(), "NV12")) << refused.error().message();
  EXPECT_TRUE(mentions(refused.error(), "Container::raw holds every linear format")) << refused.error().message();
  EXPECT_TRUE(sink->check_input(small_config(formats::nv12)));
  StreamConfig tiled = small_config(formats::nv12);
  tiled.layout.modifier = Modifier::from_value(0x0100000000000001);
  EXPECT_TRUE(fails_with(sink->check_input(tiled), EINVAL));
  EXPECT_FALSE(std::filesystem::exists(path("clip.y4m"))) << "asking changes nothing";
}

// --- raw -------------------------------------------------------------------------------------------------------------

TEST_F(FileSinkTest, ARawFileHasThePixelsWithoutPaddingAndADescription) {
  start(path("clip.yuv"), config_of(formats::nv12, {21, 7}));
  push();
  push();
  finish();
  const std::string frame = rows(0, 0, 21, 0, 7) + rows(1, 0, 22, 0, 4);
  EXPECT_EQ(contents(path("clip.yuv")), frame + frame);
  const auto json = description(path("clip.yuv"));
  EXPECT_EQ(json["width"], 21);
  EXPECT_EQ(json["height"], 7);
  EXPECT_EQ(json["format"], "NV12");
  EXPECT_EQ(json["drm_fourcc"], "0x3231564e");
  EXPECT_EQ(json["planes"], Json::parse(R"([{"offset":0,"stride":21,"rows":7},{"offset":147,"stride":22,"rows":4}])"));
  EXPECT_EQ(json["frame_bytes"], frame.size());
  EXPECT_EQ(json["frames"], 2);
  EXPECT_EQ(json["rate"], Json::parse(R"({"numerator":25,"denominator":1})"));
  EXPECT_EQ(json["color"]["matrix"], "unspecified");
  EXPECT_EQ(json["ffmpeg_pixel_format"], "nv12");
  EXPECT_EQ(json["play"],
            "ffplay -f rawvideo -pixel_format nv12 -video_size 21x7 -framerate 25/1 '" + path("clip.yuv") + "'");
}

TEST_F(FileSinkTest, ARawFileHoldsRgbAndTheVisiblePartOnly) {
  start(path("it's.rgb"), config_of(formats::xrgb8888, {20, 8}));
  push({.visible = {.x = 3, .y = 1, .width = 10, .height = 5}});
  finish();
  EXPECT_EQ(contents(path("it's.rgb")), rows(0, 12, 40, 1, 5));
  EXPECT_EQ(description(path("it's.rgb"))["play"],
            "ffplay -f rawvideo -pixel_format bgr0 -video_size 10x5 "
            "-framerate 25/1 '" +
                directory + "/it'\\''s.rgb'");
}

TEST_F(FileSinkTest, RowsWithoutPaddingAreWrittenAsTheyAre) {
  start(path("clip.yuv"), config_of(formats::yuv420, {128, 64}));
  push();
  finish();
  EXPECT_EQ(contents(path("clip.yuv")), rows(0, 0, 128, 0, 64) + rows(1, 0, 64, 0, 32) + rows(2, 0, 64, 0, 32));
}

TEST_F(FileSinkTest, CompressedFramesAreWrittenAsTheyAre) {
  StreamConfig config;
  config.layout = must(Layout::opaque(formats::mjpeg, {64, 48}, 4096));
  config.interval = {1, 30};
  sink = must(FileSink::create(path("clip.mjpeg")));
  must(sink->set_input(config));
  const std::vector<Buffer> buffers{memfd_buffer(config.layout)};
  ASSERT_EQ(::pwrite(buffers[0].fd(0), "first, longer", 13, 0), 13);
  must(sink->start(buffers));
  const auto holds = must(HoldSet::create(buffers));
  FrameInfo info;
  for (const std::uint32_t used : {13U, 5U}) {
    info.bytes_used[0] = used;
    EXPECT_FALSE(must(sink->accept(must(holds->lend(0, info)))));
    must(sink->drain(Deadline::after(seconds(20))));
    EXPECT_TRUE(holds->take_returned());
  }
  must(sink->stop());
  EXPECT_EQ(contents(path("clip.mjpeg")), "first, longerfirst");
  const auto json = description(path("clip.mjpeg"));
  EXPECT_EQ(json["compressed"], true);
  EXPECT_EQ(json["frame_bytes"], nullptr);
  EXPECT_EQ(json["frames"], 2);
  EXPECT_EQ(json["play"], "ffplay -f mjpeg -framerate 30/1 '" + path("clip.mjpeg") + "'");
}

TEST_F(FileSinkTest, TheDescriptionIsThereAsSoonAsTheFirstFrameIs) {
  start(path("clip.raw"), config_of(formats::xrgb8888, {20, 8}));
  push();
  const auto give_up = Deadline::after(seconds(20));
  while (sink->written() == 0) must(pipeline.step(give_up));
  EXPECT_EQ(description(path("clip.raw"))["frames"], nullptr);
  finish();
  EXPECT_EQ(description(path("clip.raw"))["frames"], 1);
}

// --- The file over several starts ------------------------------------------------------------------------------------

TEST_F(FileSinkTest, ALaterStartAppendsAndAnotherPictureIsRefused) {
  std::ofstream(path("clip.y4m")) << "from another day";
  sink = must(FileSink::create(path("clip.y4m")));
  heap.own.stride_alignment = 64;
  for (int run = 0; run < 2; ++run) {
    Pipeline own;
    FakeSource source{{config_of(formats::nv12, {8, 4})}};
    must(own.connect(source, *sink));
    own.offer(heap);
    must(own.start());
    for (const Buffer& buffer : source.holds()->buffers()) paint(buffer);
    ASSERT_TRUE(source.expose());
    must(own.step(Deadline::after(seconds(20))));
    must(own.stop(Deadline::after(seconds(20))));
  }
  const auto frame = "FRAME\n" + rows(0, 0, 8, 0, 4) + rows(1, 0, 4, 0, 2, 2) + rows(1, 1, 4, 0, 2, 2);
  EXPECT_EQ(contents(path("clip.y4m")), "YUV4MPEG2 W8 H4 F25:1 Ip A0:0 C420mpeg2\n" + frame + frame);
  EXPECT_TRUE(fails_with(sink->check_input(config_of(formats::nv12, {16, 4})), EINVAL));
  EXPECT_TRUE(fails_with(sink->check_input(config_of(formats::yuyv, {8, 4})), EINVAL));
  EXPECT_TRUE(sink->check_input(config_of(formats::nv12, {8, 4})));
}

TEST_F(FileSinkTest, AFrameOfAnotherSizeEndsTheRunAndTheFileStaysWhole) {
  start(path("clip.y4m"), config_of(formats::nv12, {20, 10}));
  push({.visible = {.x = 0, .y = 0, .width = 8, .height = 4}});
  push({.visible = {.x = 0, .y = 0, .width = 10, .height = 4}});
  const auto failed = failure();
  ASSERT_TRUE(fails_with(failed, EINVAL));
  EXPECT_TRUE(mentions(failed.error(), "10x4") && mentions(failed.error(), "8x4")) << failed.error().message();
  static_cast<void>(pipeline.stop(Deadline::after(seconds(20))));
  EXPECT_EQ(sink->written(), 1U);
  EXPECT_TRUE(contents(path("clip.y4m")).ends_with(rows(1, 1, 4, 0, 2, 2)));
}

// --- Errors ----------------------------------------------------------------------------------------------------------

TEST_F(FileSinkTest, AFullDiskIsOneClearError) {
  start("/dev/full", config_of(formats::nv12, {20, 10}), {.container = Container::y4m});
  push();
  const auto failed = failure();
  ASSERT_TRUE(fails_with(failed, ENOSPC));
  EXPECT_TRUE(mentions(failed.error(), "/dev/full: write: No space left on device")) << failed.error().message();
  EXPECT_TRUE(fails_with(pipeline.stop(Deadline::after(seconds(20))), ENOSPC));
  EXPECT_EQ(branch().dropped.by_device, 1U);
  EXPECT_EQ(sink->written(), 0U);
}

/// Also makes the n-th write() to a regular file fail.
struct FullDisk : PretendDmaBufs {
  int before(const sys::Call& call) noexcept override {
    if (std::string_view(call.name) != "write" || call.fd < 0 || !is_file(call.fd)) return PretendDmaBufs::before(call);
    return ++calls == fail_at ? ENOSPC : proceed;
  }
  static bool is_file(int fd) noexcept {
    struct stat status{};
    return ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
  }
  std::atomic<int> calls{0};
  std::atomic<int> fail_at{0};
};

TEST_F(FileSinkTest, WhatFailsInMidFrameIsTakenOffTheFile) {
  FullDisk disk;
  start(path("clip.rgb"), config_of(formats::xrgb8888, {630, 480}));
  disk.fail_at = 9;  // one write for the description, and five of up to 256 KiB for a frame of 1.2 MB
  push();
  push();
  ASSERT_TRUE(fails_with(failure(), ENOSPC));
  static_cast<void>(pipeline.stop(Deadline::after(seconds(20))));
  EXPECT_EQ(sink->written(), 1U);
  EXPECT_EQ(contents(path("clip.rgb")), rows(0, 0, 2520, 0, 480));
  EXPECT_EQ(description(path("clip.rgb"))["frames"], 1);
}

TEST_F(FileSinkTest, AStartAfterAFirstFrameThatFailedBeginsAnew) {
  FullDisk disk;
  disk.fail_at = 1;
  sink = must(FileSink::create(path("clip.y4m")));
  const Size sizes[] = {{8, 4}, {4, 2}};
  for (const Size size : sizes) {  // only frames of the second size get into the file
    const StreamConfig config = config_of(formats::r8, size);
    must(sink->set_input(config));
    const std::vector<Buffer> buffers{memfd_buffer(config.layout)};
    const auto holds = must(HoldSet::create(buffers));
    paint(buffers[0]);
    must(sink->start(buffers));
    EXPECT_FALSE(must(sink->accept(must(holds->lend(0, {})))));
    const auto drained = sink->drain(Deadline::after(seconds(20)));
    EXPECT_EQ(drained.has_value(), size == sizes[1]);
    static_cast<void>(sink->stop());
  }
  EXPECT_EQ(contents(path("clip.y4m")), "YUV4MPEG2 W4 H2 F25:1 Ip A0:0 Cmono\nFRAME\n" + rows(0, 0, 4, 0, 2));
}

TEST_F(FileSinkTest, APipeIsWrittenInManyShortWritesAndReadWhole) {
  const auto pipe = path("pipe.y4m");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  {
    const auto early = must(FileSink::create(pipe));
    must(early->set_input(config_of(formats::nv12, {640, 480})));
    const auto refused = early->start({});
    ASSERT_TRUE(fails_with(refused, ENXIO));
    EXPECT_TRUE(mentions(refused.error(), "start the reader first")) << refused.error().message();
  }
  const Fd reader = Fd::adopt(::open(pipe.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  start(pipe, config_of(formats::nv12, {640, 480}));
  std::string got;
  std::atomic<bool> ended{false};
  std::thread reading([&] {
    std::array<char, 5000> part{};
    while (true) {
      const bool is_over = ended;
      const ssize_t count = ::read(reader.get(), part.data(), part.size());
      if (count > 0) got.append(part.data(), static_cast<std::size_t>(count));
      if (count <= 0 && is_over) return;
      if (count <= 0) std::this_thread::yield();
    }
  });
  for (int i = 0; i < 3; ++i) push();
  finish();
  ended = true;
  reading.join();
  const auto frame = "FRAME\n" + rows(0, 0, 640, 0, 480) + rows(1, 0, 320, 0, 240, 2) + rows(1, 1, 320, 0, 240, 2);
  EXPECT_EQ(got, "YUV4MPEG2 W640 H480 F25:1 Ip A0:0 C420mpeg2\n" + frame + frame + frame);
}

TEST_F(FileSinkTest, AReaderThatEndsIsAnErrorAndNoSignal) {
  const auto pipe = path("pipe.y4m");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  Fd reader = Fd::adopt(::open(pipe.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  start(pipe, config_of(formats::nv12, {640, 480}));
  push();
  reader = Fd();
  const auto failed = failure();
  ASSERT_TRUE(fails_with(failed, EPIPE));
  static_cast<void>(pipeline.stop(Deadline::after(seconds(20))));
}

TEST_F(FileSinkTest, AReaderThatReadsNothingKeepsNobodyFromStopping) {
  const auto pipe = path("pipe.raw");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  const Fd reader = Fd::adopt(::open(pipe.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  start(pipe, config_of(formats::nv12, {640, 480}));
  push();
  settle();
  EXPECT_TRUE(fails_with(pipeline.stop(Deadline::after(milliseconds(20))), ETIMEDOUT));
  EXPECT_EQ(branch().dropped.by_device, 1U);
  EXPECT_FALSE(std::filesystem::exists(pipe + ".json")) << "a pipe has no description";
}

TEST_F(FileSinkTest, StandardOutputIsWrittenAsY4m) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const Fd reader = Fd::adopt(ends[0]);
  const Fd own = Fd::adopt(::dup(STDOUT_FILENO));
  std::fflush(stdout);
  ASSERT_EQ(::dup2(ends[1], STDOUT_FILENO), STDOUT_FILENO);
  ::close(ends[1]);
  start("-", config_of(formats::nv12, {8, 4}));
  push();
  finish();
  ASSERT_EQ(::dup2(own.get(), STDOUT_FILENO), STDOUT_FILENO);
  std::array<char, 4096> got{};
  const ssize_t count = ::read(reader.get(), got.data(), got.size());
  ASSERT_GT(count, 0);
  EXPECT_EQ(std::string(got.data(), static_cast<std::size_t>(count)),
            "YUV4MPEG2 W8 H4 F25:1 Ip A0:0 C420mpeg2\nFRAME\n" + rows(0, 0, 8, 0, 4) + rows(1, 0, 4, 0, 2, 2) +
                rows(1, 1, 4, 0, 2, 2));
  EXPECT_EQ(sink->name(), "standard output");
}

TEST_F(FileSinkTest, WhatCannotBeOpenedOrMadeIsAnErrorThatLeavesNothing) {
  EXPECT_TRUE(fails_with(FileSink::create(""), EINVAL));
  EXPECT_TRUE(fails_with(FileSink::create("x", {.queue = 33}), EINVAL));
  const LeakCheck leaks;
  sink = must(FileSink::create(path("no/such/folder.raw")));
  must(sink->set_input(small_config()));
  const std::vector<Buffer> buffers{memfd_buffer(small_config().layout)};
  EXPECT_TRUE(fails_with(sink->start(buffers), ENOENT));
  EXPECT_FALSE(sink->ready());
  {
    const FailNth fail(1, ENOMEM, "mmap");
    EXPECT_TRUE(fails_with(sink->start(buffers), ENOMEM));
  }
  sink.reset();
}

TEST_F(FileSinkTest, BracketsEachFrameWithOneAccessAndMapsNothingWhileItRuns) {
  start(path("clip.raw"), config_of(formats::xrgb8888, {20, 8}));
  push();
  const auto give_up = Deadline::after(seconds(20));
  while (sink->written() < 1) must(pipeline.step(give_up));
  struct CountMaps : PretendDmaBufs {
    int before(const sys::Call& call) noexcept override {
      const std::string_view name = call.name;
      if (name == "mmap" || name == "munmap") ++maps;
      if (call.request != 0 && name == "ioctl") ++ioctls;
      return PretendDmaBufs::before(call);
    }
    std::atomic<int> maps{0};
    std::atomic<int> ioctls{0};
  } count;
  push();
  push();
  while (sink->written() < 3 || app->holds()->lent() > 0) must(pipeline.step(Deadline::after(milliseconds(10))));
  EXPECT_EQ(count.maps, 0);
  EXPECT_EQ(count.ioctls, 4) << "a start and an end of two frames";
}

// --- Other tools ---------------------------------------------------------------------------------------------------

/// What a command prints to its standard output.
std::string output_of(const std::string& command) {
  std::string text;
  std::FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return "popen: " + std::to_string(errno);
  std::array<char, 4096> some;
  while (const std::size_t size = std::fread(some.data(), 1, some.size(), pipe)) text.append(some.data(), size);
  EXPECT_EQ(::pclose(pipe), 0) << command;
  return text;
}

/// All of them, or none if ffmpeg is not installed.
std::vector<PixelFormat> if_ffmpeg_is_there(std::vector<PixelFormat> formats) {
  if (std::system("command -v ffmpeg >/dev/null 2>&1") != 0) formats.clear();
  return formats;
}

class OpenedByFfmpeg : public FileSinkTest, public ::testing::WithParamInterface<PixelFormat> {
 protected:
  /// Writes three frames of 16x8 pixels.
  void write(const std::string& to) {
    start(to, config_of(GetParam(), {16, 8}));
    for (int i = 0; i < 3; ++i) push();
    finish();
  }
  /// Writes a raw file, and returns ffmpeg's output of what the command in its description plays.
  std::string read_back(const std::string& options) {
    write(path("clip.raw"));
    const auto json = description(path("clip.raw"));
    EXPECT_TRUE(json["play"].is_string()) << json;
    std::string command = json["play"];
    EXPECT_TRUE(command.starts_with("ffplay ")) << command;
    command.replace(0, 7, "ffmpeg -v error ");
    command.insert(command.find('\''), "-i ");
    return output_of(command + " -f rawvideo " + options + " -");
  }
};

std::string name_of(const ::testing::TestParamInfo<PixelFormat>& test) { return test.param.name(); }

class Y4mOpenedByFfmpeg : public OpenedByFfmpeg {};
INSTANTIATE_TEST_SUITE_P(Of, Y4mOpenedByFfmpeg,
                         ::testing::ValuesIn(if_ffmpeg_is_there(
                             {formats::nv12, formats::nv21, formats::nv16, PixelFormat::of('N', 'V', '2', '4'),
                              formats::yuv420, PixelFormat::of('Y', 'U', '1', '6'), PixelFormat::of('Y', 'U', '2', '4'),
                              formats::yuyv, formats::uyvy, formats::p010, formats::r8})),
                         name_of);

TEST_P(Y4mOpenedByFfmpeg, PixelForPixel) {
  write(path("clip.y4m"));
  std::string frames = contents(path("clip.y4m"));
  const std::string header = frames.substr(0, frames.find('\n') + 1);
  frames.erase(0, header.size());
  const std::size_t frame = frames.size() / 3;
  for (std::size_t i = 3; i-- > 0;) frames.erase(i * frame, 6);  // "FRAME\n"
  EXPECT_EQ(output_of("ffmpeg -v error -i " + path("clip.y4m") + " -f rawvideo -"), frames) << header;
}

class RawOpenedByFfmpeg : public OpenedByFfmpeg {};
INSTANTIATE_TEST_SUITE_P(Of, RawOpenedByFfmpeg,
                         ::testing::ValuesIn(if_ffmpeg_is_there(
                             {formats::nv12, formats::nv16, PixelFormat::of('N', 'V', '2', '4'), formats::yuv420,
                              formats::yuyv, formats::uyvy, PixelFormat::of('Y', 'V', 'Y', 'U'), formats::p010,
                              formats::r8, formats::rgb565, formats::xrgb8888, formats::xbgr8888, formats::argb8888,
                              formats::abgr8888, formats::rgb888, formats::bgr888, formats::xrgb2101010})),
                         name_of);

TEST_P(RawOpenedByFfmpeg, ByTheCommandInItsDescription) {
  const std::string read = read_back("");
  EXPECT_EQ(read, contents(path("clip.raw")));
}

class RgbOpenedByFfmpeg : public OpenedByFfmpeg {};
INSTANTIATE_TEST_SUITE_P(Of, RgbOpenedByFfmpeg,
                         ::testing::ValuesIn(if_ffmpeg_is_there({formats::xrgb8888, formats::argb8888,
                                                                 formats::xbgr8888, formats::abgr8888, formats::rgb888,
                                                                 formats::bgr888})),
                         name_of);

TEST_P(RgbOpenedByFfmpeg, InTheRightColours) {
  const bool is_bgr =
      GetParam() == formats::xrgb8888 || GetParam() == formats::argb8888 || GetParam() == formats::rgb888;
  const bool has_fourth = GetParam() != formats::rgb888 && GetParam() != formats::bgr888;
  const std::string read = read_back("-pix_fmt rgb24");
  const std::string bytes = contents(path("clip.raw"));
  std::string expected;
  for (std::size_t at = 0; at < bytes.size(); at += has_fourth ? 4 : 3) {
    for (const std::size_t component : {0U, 1U, 2U}) expected += bytes[at + (is_bgr ? 2 - component : component)];
  }
  EXPECT_EQ(read, expected);
}

TEST_F(FileSinkTest, KeepsTheContractOfDeviceHpp) {
  for (const char* name : {"clip.y4m", "clip.raw"}) {
    const auto one = must(FileSink::create(path(name)));
    const auto findings = dmaflow::testing::check_sink(
        *one, {.config = small_config(formats::nv12), .allocator = &heap, .patience = seconds(20)});
    EXPECT_TRUE(findings) << findings.text();
  }
}

}  // namespace
