// foreign_memory: frames in another library's dma-bufs, which come one by one while frames already move.
#include <dmaflow/dmaflow.hpp>

#include <iostream>
#include <map>

/// Stands for a decoder: it has pictures in dma-bufs of its own, and wants each back before it writes to it again.
struct Decoder {
  std::unique_ptr<dmaflow::Allocator> memory = dmaflow::open_system_memory().value();
  std::map<int, dmaflow::Buffer> pictures;
  int given_back = 0;

  const dmaflow::Buffer& picture(int number) {
    auto& buffer = pictures[number];
    if (!buffer) buffer = memory->allocate({.size = {640, 480}, .format = dmaflow::formats::nv12}).value().front();
    return buffer;
  }
};

int main() try {
  Decoder decoder;
  dmaflow::StreamConfig stream;
  stream.layout = decoder.picture(0).layout();
  const auto source =
      dmaflow::DmaBufSource::create(
          stream, {decoder.picture(0)},
          {.released =
               [&](const dmaflow::Buffer&, const dmaflow::FrameInfo& info, std::span<const dmaflow::Fence>) {
                 info.user.get<Decoder*>().value()->given_back++;  // after the fences, where there are some
               }})
          .value();
  int shown = 0;
  const auto viewer = dmaflow::FunctionSink::create([&](const dmaflow::Frame&) -> dmaflow::Result<void> {
                        ++shown;
                        return {};
                      }).value();
  dmaflow::Pipeline pipeline;
  pipeline.connect(*source, *viewer, "viewer", {.policy = dmaflow::Policy::wait_when_full}).value();
  pipeline.start().value();
  for (int i = 0; i < 30; ++i) {
    const dmaflow::Buffer& picture = decoder.picture(i % 5);  // of the decoder all that is known is a descriptor
    const int descriptors[] = {picture.fd(0)};
    dmaflow::FrameInfo info;
    info.user.set(&decoder);
    source->push(source->buffer(picture.layout(), descriptors).value(), info).value();
    while (shown <= i) pipeline.step(dmaflow::Deadline::after(std::chrono::seconds(1))).value();
  }
  pipeline.stop(dmaflow::Deadline::after(std::chrono::seconds(1))).value();
  std::cout << shown << " frames shown, " << decoder.given_back << " given back\n";
} catch (const std::bad_expected_access<dmaflow::Error>& failure) {
  std::cerr << "error: " << failure.error().message() << '\n';
  return 1;
}
