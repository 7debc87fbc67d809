def towards(task):
    n = task.options["n"]
    h, labels = task.h[:n].float(), task.labels[:n]  # h: (n, T, *h)
    classes = range(len(task.classes))
    gaps = [h[labels == c].mean(0) - h[labels != c].mean(0) for c in classes]

    def edit(c, strength):
        return lambda h, step: h + strength * gaps[c][step.index].to(h)

    return edit
