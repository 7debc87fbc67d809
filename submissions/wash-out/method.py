def towards(task):
    h, classes = task.h.float(), range(len(task.classes))  # h: (n, T, *h)
    means = [h[task.labels == c].mean(0) for c in classes]

    def edit(c, strength):
        return lambda h, step: h + strength * (means[c][step.index].to(h) - h)

    return edit
